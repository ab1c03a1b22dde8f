/* test_blob.c: a value that stands apart is read back as it was written, or not at all.
 *
 * Method: files of values of all lengths and codecs on a simulated disk, read by their references; then
 * every byte of a file changed, references that point elsewhere, and writing that fails at each call.
 */
#include "harness.h"

#include "blob.h"
#include "env_sim.h"
#include "golden.h"
#include "hash.h"

enum { VALUES = 40, LARGE = 700000 };

typedef struct written {
    lk_sim *sim;
    lk_env *env;
    lk_blob_ref refs[VALUES];
    uint8_t *values[VALUES];
    size_t lens[VALUES];
    uint64_t bytes;
} written;

/* Lengths around the sizes of buffers, and among them such as compress and such as do not. */
static void values_make(written *x, uint64_t *rng)
{
    static const size_t LENS[] = {0, 1, 7, 8, 9, 4096, 131071, 131072, 524288, LARGE};
    for (uint32_t i = 0; i < VALUES; i++) {
        size_t known = sizeof LENS / sizeof *LENS;
        x->lens[i] = i < known ? LENS[i] : (size_t)lk_test_below(rng, 5000);
        x->values[i] = malloc(x->lens[i] + 1);
        bool random = lk_test_below(rng, 2) == 0;
        for (size_t j = 0; j < x->lens[i]; j++) {
            x->values[i][j] = random ? (uint8_t)lk_test_rand(rng) : (uint8_t)(i + j / 64);
        }
    }
}

static lk_status values_write(written *x, lk_codec codec, lk_error *err)
{
    lk_status st = LK_OK;
    lk_blob_writer *w = NULL;
    bool done = false;
    LK_TRY(lk_blob_writer_new(x->env, "/s", 7, codec, NULL, NULL, &w, err));
    for (uint32_t i = 0; i < VALUES; i++) {
        LK_TRY(
            lk_blob_writer_add(w, 100 + i, (lk_bytes){x->values[i], x->lens[i]}, &x->refs[i], err));
    }
    LK_TRY(lk_blob_writer_finish(w, err));
    x->bytes = lk_blob_writer_bytes(w);
    done = true;
done:
    lk_blob_writer_free(w, done);
    return st;
}

static written written_new(uint64_t *rng)
{
    lk_error err;
    written x = {.sim = lk_sim_new(5)};
    CHECK(x.sim != NULL);
    x.env = lk_sim_env(x.sim);
    CHECK_OK(lk_env_mkdir(x.env, "/s", NULL, &err), &err);
    values_make(&x, rng);
    return x;
}

static void written_free(written *x)
{
    for (uint32_t i = 0; i < VALUES; i++) free(x->values[i]);
    lk_sim_free(x->sim);
}

static lk_status value_read(lk_blob_file *f, const lk_blob_ref *ref, const uint8_t *value,
                            size_t len, lk_error *err)
{
    lk_status st = LK_OK;
    size_t room;
    lk_bytes found;
    uint8_t *memory = NULL;
    LK_TRY(lk_blob_file_room(f, ref, &room, err));
    memory = malloc(room);
    LK_TRY(lk_blob_file_read(f, ref, memory, &found, err));
    CHECK(lk_bytes_equal(found.data, found.len, value, len));
done:
    free(memory);
    return st;
}

LK_TEST(values_of_any_length_come_back)
{
    static const lk_codec CODECS[] = {LK_CODEC_NONE, LK_CODEC_LZ4, LK_CODEC_ZSTD};
    uint64_t rng = lk_test_seed();
    for (size_t c = 0; c < sizeof CODECS / sizeof *CODECS; c++) {
        lk_error err;
        written x = written_new(&rng);
        lk_blob_file *f;
        uint64_t records, bytes, compressed = 0;
        CHECK_OK(values_write(&x, CODECS[c], &err), &err);
        CHECK_OK(lk_blob_file_new(x.env, "/s", 7, x.bytes, &f, &err), &err);
        for (uint32_t i = 0; i < VALUES; i++) {
            CHECK_OK(value_read(f, &x.refs[i], x.values[i], x.lens[i], &err), &err);
            CHECK_OK(lk_blob_file_check(f, &x.refs[i], 100 + i, &err), &err);
            compressed += x.refs[i].stored < x.refs[i].raw;
        }
        CHECK((compressed > 0) == (CODECS[c] != LK_CODEC_NONE));
        CHECK_OK(lk_blob_file_verify(f, &records, &bytes, &err), &err);
        CHECK_EQ(records, VALUES);
        CHECK_EQ(bytes, x.bytes);
        lk_blob_file_unref(f);
        written_free(&x);
    }
}

static void byte_turn(lk_env *env, uint64_t at)
{
    lk_error err;
    lk_file *file;
    uint8_t byte;
    CHECK_OK(lk_env_open(env, "/s/000007.blob", LK_OPEN_WRITE, &file, &err), &err);
    CHECK_OK(lk_file_read_exact(file, at, &byte, 1, &err), &err);
    byte ^= 0x10;
    CHECK_OK(lk_file_write(file, at, &byte, 1, &err), &err);
    lk_file_close(file);
}

static void random_fixed(lk_env *env, void *out, size_t n)
{
    (void)env;
    memset(out, 0x5a, n);
}

LK_TEST(example_of_the_document_is_what_is_written_and_read)
{
    lk_error err;
    lk_sim *sim = lk_sim_new(5);
    lk_env_ops ops = *lk_sim_env(sim)->ops;
    lk_blob_writer *w;
    lk_blob_file *f;
    lk_file *file;
    lk_blob_ref ref;
    uint8_t shown[256], made[256];
    const uint8_t value[] = "a large value";
    ops.random = random_fixed;
    lk_env *env = lk_sim_env(sim);
    env->ops = &ops;
    CHECK_OK(lk_env_mkdir(env, "/s", NULL, &err), &err);
    CHECK_OK(lk_blob_writer_new(env, "/s", 1, LK_CODEC_NONE, NULL, NULL, &w, &err), &err);
    uint64_t hash = lk_hash_key(0, (const uint8_t *)"k", 1);
    CHECK_OK(lk_blob_writer_add(w, hash, (lk_bytes){value, sizeof value - 1}, &ref, &err), &err);
    CHECK_OK(lk_blob_writer_finish(w, &err), &err);
    uint64_t bytes = lk_blob_writer_bytes(w);
    lk_blob_writer_free(w, true);
    CHECK_OK(lk_env_open(env, "/s/000001.blob", LK_OPEN_WRITE, &file, &err), &err);
    CHECK_OK(lk_file_read_exact(file, 0, made, (size_t)bytes, &err), &err);
    CHECK_EQ(golden_example("blob", "docs/FORMAT-blob.md", shown, sizeof shown), bytes);
    CHECK_MEM_EQ(shown, made, (size_t)bytes);
    CHECK_OK(lk_file_write(file, 0, shown, (size_t)bytes, &err), &err);
    lk_file_close(file);
    CHECK_OK(lk_blob_file_new(env, "/s", 1, bytes, &f, &err), &err);
    CHECK_OK(value_read(f, &ref, value, sizeof value - 1, &err), &err);
    CHECK_OK(lk_blob_file_check(f, &ref, hash, &err), &err);
    lk_blob_file_unref(f);
    lk_sim_free(sim);
}

LK_TEST(every_changed_byte_of_a_record_is_found)
{
    uint64_t rng = lk_test_seed() ^ 1;
    lk_error err;
    written x = written_new(&rng);
    CHECK_OK(values_write(&x, LK_CODEC_LZ4, &err), &err);
    for (uint32_t i = 0; i < VALUES; i++) {
        const lk_blob_ref *ref = &x.refs[i];
        uint64_t end = ref->offset + LK_BLOB_RECORD_BYTES + ref->stored;
        uint64_t step = 1 + ref->stored / 50;
        for (uint64_t at = i == 0 ? 0 : ref->offset; at < end; at += step) {
            lk_blob_file *f;
            uint64_t records, bytes;
            byte_turn(x.env, at);
            CHECK_OK(lk_blob_file_new(x.env, "/s", 7, x.bytes, &f, &err), &err);
            CHECK(value_read(f, ref, x.values[i], x.lens[i], &err) != LK_OK);
            CHECK(lk_blob_file_verify(f, &records, &bytes, &err) != LK_OK);
            lk_blob_file_unref(f);
            byte_turn(x.env, at);
        }
    }
    written_free(&x);
}

LK_TEST(a_reference_that_points_elsewhere_is_refused)
{
    uint64_t rng = lk_test_seed() ^ 2;
    lk_error err;
    written x = written_new(&rng);
    lk_blob_file *f;
    CHECK_OK(values_write(&x, LK_CODEC_LZ4, &err), &err);
    CHECK_OK(lk_blob_file_new(x.env, "/s", 7, x.bytes, &f, &err), &err);
    lk_blob_ref good = x.refs[20], bad = good;
    CHECK_OK(value_read(f, &good, x.values[20], x.lens[20], &err), &err);
    bad.offset = x.refs[21].offset;
    CHECK_EQ(value_read(f, &bad, NULL, 0, &err), LK_CORRUPT);
    bad = good;
    bad.checksum ^= 1;
    CHECK_EQ(value_read(f, &bad, NULL, 0, &err), LK_CORRUPT);
    bad = good;
    bad.stored = bad.raw = UINT32_MAX; /* no such memory is taken */
    CHECK_EQ(value_read(f, &bad, NULL, 0, &err), LK_CORRUPT);
    bad = good;
    bad.offset = UINT64_MAX - 7;
    CHECK_EQ(value_read(f, &bad, NULL, 0, &err), LK_CORRUPT);
    bad = good;
    bad.raw = LK_VALUE_BYTES_MAX; /* nothing expands so far */
    CHECK_EQ(value_read(f, &bad, NULL, 0, &err), LK_CORRUPT);
    CHECK_EQ(lk_blob_file_check(f, &good, 100 + 19, &err), LK_CORRUPT);
    lk_blob_file_unref(f);
    written_free(&x);
}

LK_TEST(a_file_that_is_missing_cut_short_or_another_one_is_corrupt)
{
    uint64_t rng = lk_test_seed() ^ 3;
    lk_error err;
    written x = written_new(&rng);
    lk_blob_file *f;
    lk_file *file;
    CHECK_OK(lk_blob_file_new(x.env, "/s", 7, 4096, &f, &err), &err);
    CHECK_EQ(lk_blob_file_load(f, &err), LK_CORRUPT);
    CHECK(strstr(err.message, "000007.blob: is missing") != NULL);
    CHECK_OK(values_write(&x, LK_CODEC_NONE, &err), &err);
    CHECK_EQ(lk_blob_file_load(f, &err), LK_CORRUPT); /* its size is not 4096 */
    lk_blob_file_unref(f);
    CHECK_OK(lk_env_open(x.env, "/s/000007.blob", LK_OPEN_WRITE, &file, &err), &err);
    CHECK_OK(lk_file_truncate(file, x.bytes - 8, &err), &err);
    lk_file_close(file);
    CHECK_OK(lk_blob_file_new(x.env, "/s", 7, x.bytes, &f, &err), &err);
    CHECK_EQ(lk_blob_file_load(f, &err), LK_CORRUPT);
    lk_blob_file_unref(f);
    CHECK_OK(lk_env_rename(x.env, "/s/000007.blob", "/s/000008.blob", &err), &err);
    CHECK_OK(lk_blob_file_new(x.env, "/s", 8, 0, &f, &err), &err);
    CHECK_EQ(lk_blob_file_load(f, &err), LK_CORRUPT);
    lk_blob_file_unref(f);
    written_free(&x);
}

LK_TEST(writing_that_fails_at_any_call_leaves_no_file)
{
    static const lk_sim_op OPS[] = {LK_SIM_OPEN, LK_SIM_WRITE, LK_SIM_SYNC};
    uint64_t rng = lk_test_seed() ^ 4;
    for (size_t i = 0; i < sizeof OPS / sizeof *OPS; i++) {
        bool failed = true;
        for (uint64_t nth = 1; failed; nth++) {
            lk_error err;
            bool exists;
            written x = written_new(&rng);
            CHECK(lk_sim_fail(x.sim, OPS[i], nth, 28, false));
            failed = values_write(&x, LK_CODEC_NONE, &err) != LK_OK;
            CHECK(failed || nth > 1);
            CHECK_OK(lk_env_exists(x.env, "/s/000007.blob", &exists, NULL, &err), &err);
            CHECK(exists != failed);
            written_free(&x);
        }
    }
}

LK_TEST(an_obsolete_file_goes_with_its_last_reference)
{
    uint64_t rng = lk_test_seed() ^ 5;
    lk_error err;
    bool exists;
    written x = written_new(&rng);
    lk_blob_files *files = lk_blob_files_new(1);
    CHECK(files != NULL);
    CHECK_OK(values_write(&x, LK_CODEC_NONE, &err), &err);
    CHECK_OK(lk_blob_file_new(x.env, "/s", 7, x.bytes, &files->items[0].file, &err), &err);
    files->items[0].bytes = (x.bytes - LK_BLOB_HEADER_BYTES) / 2;
    CHECK(lk_blob_files_find(files, 7) == &files->items[0]);
    CHECK(lk_blob_files_find(files, 6) == NULL && lk_blob_files_find(NULL, 7) == NULL);
    CHECK(lk_blob_item_is_wasteful(&files->items[0], 0.4));
    CHECK(!lk_blob_item_is_wasteful(&files->items[0], 0.6));
    lk_blob_file *file = files->items[0].file;
    lk_blob_file_ref(file);
    lk_blob_file_set_obsolete(file);
    lk_blob_files_free(files);
    CHECK_OK(lk_env_exists(x.env, "/s/000007.blob", &exists, NULL, &err), &err);
    CHECK(exists);
    lk_blob_file_unref(file);
    CHECK_OK(lk_env_exists(x.env, "/s/000007.blob", &exists, NULL, &err), &err);
    CHECK(!exists);
    written_free(&x);
}
