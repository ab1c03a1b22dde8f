/* The bytes of a log segment are those that the document of the format shows.
 *
 * Method: the worked example is taken from the document; the same writes are made in a new segment on
 * a machine whose chance and boot are fixed, and must give the same bytes; then the document's bytes
 * are read back, record by record.
 */
#include "harness.h"

#include "env_sim.h"
#include "frame.h"
#include "golden.h"

enum { EXAMPLE_BYTES = 168, EXAMPLE_CAPACITY = 4096, MARK_BYTES = 8 };

/* The nonce of the example, and the boot id of its machine. */
static const uint64_t NONCE = UINT64_C(0x8c1f5a3e6b2d9470);
static const uint8_t BOOT_ID[16] = {0x6f, 0x1c, 0x52, 0x8e, 0x0b, 0x7d, 0x4a, 0x90,
                                    0xb3, 0x25, 0xe4, 0xd8, 0x71, 0xa6, 0x3f, 0xc2};

static void random_is_nonce(lk_env *env, void *out, size_t n)
{
    (void)env;
    CHECK_EQ(n, sizeof NONCE);
    memcpy(out, &NONCE, n);
}

static void boot_is_known(lk_env *env, uint8_t out[16])
{
    (void)env;
    memcpy(out, BOOT_ID, 16);
}

static lk_env *machine_without_chance(lk_sim *sim, lk_env_ops *ops)
{
    lk_env *env = lk_sim_env(sim);
    *ops = *env->ops;
    ops->random = random_is_nonce;
    ops->boot_id = boot_is_known;
    env->ops = ops;
    return env;
}

static void put(lk_segment *s, const char *key, const char *value)
{
    lk_error err;
    /* Hidden from gcc 12, which warns of branches of XXH3 that the length of a literal never takes. */
    const char *volatile hidden = key;
    size_t n = strlen(hidden);
    uint64_t hash = lk_hash_key(0, (const uint8_t *)hidden, n);
    CHECK_OK(lk_segment_put(s, 0, LK_KIND_PUT, (const uint8_t *)key, (uint32_t)n,
                            (const uint8_t *)value, (uint32_t)strlen(value), hash, &err),
             &err);
}

/* The frame of two records: a delete in tree 0, a put in tree 7. */
static void write_batch(lk_segment *s)
{
    lk_error err;
    uint8_t *to;
    uint64_t bytes = lk_record_bytes(0, 6, 0) + lk_record_bytes(7, 1, 1);
    CHECK_OK(lk_segment_begin(s, bytes, 2, false, &to, &err), &err);
    to = lk_record_write(to, 0, LK_KIND_DELETE, (const uint8_t *)"user:1", 6, NULL, 0);
    (void)lk_record_write(to, 7, LK_KIND_PUT, (const uint8_t *)"k", 1, (const uint8_t *)"v", 1);
    CHECK_OK(lk_segment_commit(s, bytes, 2, false, &err), &err);
}

static size_t example_of_the_document(uint8_t *out, size_t room)
{
    size_t bytes = golden_example("log", "docs/FORMAT-log.md", out, room);
    CHECK_EQ(bytes, EXAMPLE_BYTES + MARK_BYTES);
    return bytes;
}

LK_TEST(the_example_of_the_document_is_what_is_written)
{
    uint8_t shown[512];
    lk_env_ops ops;
    lk_error err;
    lk_segment *s;
    lk_sim *sim = lk_sim_new(1);
    lk_segment_plan plan = {
        .env = machine_without_chance(sim, &ops),
        .dir = "/",
        .generation = 4,
        .capacity = EXAMPLE_CAPACITY,
        .expected = 16,
        .mapped = true,
    };
    (void)example_of_the_document(shown, sizeof shown);
    CHECK_OK(lk_segment_prepare(&plan, NULL, &s, &err), &err);
    CHECK_OK(lk_segment_activate(s, 101, 2048, 0xabcdef01u, &err), &err);
    put(s, "user:1", "ann");
    write_batch(s);
    CHECK_EQ(s->tail, EXAMPLE_BYTES);
    CHECK_MEM_EQ(shown, s->base, EXAMPLE_BYTES);
    CHECK_MEM_EQ(shown + EXAMPLE_BYTES, s->base + EXAMPLE_CAPACITY, MARK_BYTES);
    lk_segment_unref(s);
    lk_sim_free(sim);
}

static void check_record(const lk_record *r, uint32_t tree, lk_kind kind, const char *key,
                         const char *value)
{
    CHECK_EQ(r->tree, tree);
    CHECK_EQ(r->kind, kind);
    CHECK_EQ(r->key_len, strlen(key));
    CHECK_EQ(r->value_len, strlen(value));
    CHECK_MEM_EQ(r->key, key, strlen(key));
    CHECK_MEM_EQ(r->value, value, strlen(value));
}

LK_TEST(the_example_of_the_document_is_read_as_it_says)
{
    uint8_t shown[512];
    lk_error err;
    lk_segment_header h;
    lk_frame first, second;
    (void)example_of_the_document(shown, sizeof shown);
    CHECK_OK(lk_segment_header_parse(shown, "000004.log", &h, &err), &err);
    CHECK_EQ(h.generation, 4);
    CHECK_EQ(h.nonce, NONCE);
    CHECK_EQ(h.base_seq, 101);
    CHECK_EQ(h.capacity, EXAMPLE_CAPACITY);
    CHECK_EQ(h.previous_end, 2048);
    CHECK_EQ(h.previous_link, 0xabcdef01u);
    CHECK(h.marked);
    CHECK_EQ(lk_load64(shown + EXAMPLE_BYTES) - h.nonce, EXAMPLE_BYTES);

    uint32_t at = LK_SEGMENT_HEADER_BYTES;
    CHECK_EQ(lk_frame_parse(shown, EXAMPLE_BYTES, h.nonce, at, &first), LK_FRAME_WHOLE);
    CHECK_EQ(first.link, h.link);
    CHECK_EQ(first.ordinal, 0);
    CHECK_EQ(first.records, 1);
    lk_record r = lk_record_at(shown + at + LK_FRAME_HEADER_BYTES);
    check_record(&r, 0, LK_KIND_PUT, "user:1", "ann");

    at += (uint32_t)lk_frame_bytes(first.length);
    CHECK_EQ(lk_frame_parse(shown, EXAMPLE_BYTES, h.nonce, at, &second), LK_FRAME_WHOLE);
    CHECK_EQ(second.link, first.own_hash);
    CHECK_EQ(second.ordinal, 1);
    CHECK_EQ(second.records, 2);
    CHECK_EQ(at + lk_frame_bytes(second.length), EXAMPLE_BYTES);
    r = lk_record_at(shown + at + LK_FRAME_HEADER_BYTES);
    check_record(&r, 0, LK_KIND_DELETE, "user:1", "");
    r = lk_record_at(shown + at + LK_FRAME_HEADER_BYTES + lk_record_bytes(0, 6, 0));
    check_record(&r, 7, LK_KIND_PUT, "k", "v");
}
