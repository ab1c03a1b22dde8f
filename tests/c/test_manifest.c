/* test_manifest.c: what was acknowledged is there again, whatever happens to process, power and disk.
 *
 * Method: a script of edits with known states after each, on the simulated machine; cut off or made
 * to fail at every call, damaged at every bit and length, and opened again. What is found must be
 * the state after some edit, not older than the last acknowledged one, or LK_CORRUPT where a byte
 * was changed. Beside it random edits against version_model.h, and each rule of the format by lines
 * made by hand.
 */
#include "harness.h"

#include <errno.h>
#include <stdlib.h>

#include "env_sim.h"
#include "hash.h"
#include "manifest.h"
#include "manifest_json.h"

#include "version_model.h"

/* The worked example of FORMAT.md: the first line of MANIFEST-000007, and an edit behind it. */
static const char EXAMPLE_BASE[] =
    "4408bcb93e5ce5bf {\"format\":1,\"manifest\":7,\"edit\":41,\"next_file\":18,\"last_seq\":9000,"
    "\"log_retired\":3,\"set\":{\"keyspace/"
    "16\":\"name=readings\\n\",\"next_tree\":\"17\"},\"tables\":[{\"tree\":0,\"file\":9,"
    "\"level\":0,\"stamp\":9,\"bytes\":4096,\"rows\":100,\"tombstones\":2,\"raw_bytes\":11600,"
    "\"seq_min\":8000,\"seq_max\":8099,\"nonce\":\"00c0ffee00c0ffee\",\"min\":\"61\",\"max\":"
    "\"7a\"}],"
    "\"ranges\":[{\"tree\":0,\"lower\":\"\",\"files\":[]},{\"tree\":0,\"lower\":\"6b\","
    "\"files\":[9]}],\"complete\":true}\n";
static const char EXAMPLE_EDIT[] =
    "df4767cbfd505e27 {\"edit\":42,\"next_file\":19,\"last_seq\":9100,\"log_retired\":4,"
    "\"add\":[{\"tree\":0,\"file\":17,\"level\":0,\"stamp\":18,\"bytes\":5000,\"rows\":100,"
    "\"tombstones\":0,\"raw_bytes\":11600,\"seq_min\":9001,\"seq_max\":9100,"
    "\"nonce\":\"0123456789abcdef\",\"min\":\"6170706c65\",\"max\":\"70656172\"}]}\n";
static const char EXAMPLE_CURRENT[] = "MANIFEST-000007 9b27af94d75fde38\n";

static const char DIR[] = "/db";

typedef struct bytes {
    char data[1 << 17];
    size_t len;
} bytes;

static lk_sim *machine_new(uint64_t seed)
{
    lk_error err;
    lk_sim *sim = lk_sim_new(seed);
    CHECK(sim != NULL);
    CHECK_OK(lk_env_mkdir(lk_sim_env(sim), DIR, NULL, &err), &err);
    CHECK_OK(lk_env_sync_dir(lk_sim_env(sim), "/", &err), &err);
    return sim;
}

static void read_whole(lk_env *env, const char *name, bytes *out)
{
    char path[LK_TEST_PATH_BYTES];
    lk_file *file;
    lk_error err;
    CHECK_OK(lk_env_open(env, lk_test_path(path, DIR, name), LK_OPEN_READ, &file, &err), &err);
    CHECK_OK(lk_file_read(file, 0, out->data, sizeof out->data, &out->len, &err), &err);
    CHECK(out->len < sizeof out->data);
    lk_file_close(file);
}

static void write_whole(lk_env *env, const char *name, const void *data, size_t len)
{
    char path[LK_TEST_PATH_BYTES];
    lk_file *file;
    lk_error err;
    CHECK_OK(lk_env_open(env, lk_test_path(path, DIR, name),
                         LK_OPEN_WRITE | LK_OPEN_CREATE | LK_OPEN_TRUNCATE, &file, &err),
             &err);
    CHECK_OK(lk_file_write(file, 0, data, len, &err), &err);
    CHECK_OK(lk_file_sync(file, &err), &err);
    lk_file_close(file);
    CHECK_OK(lk_env_sync_dir(env, DIR, &err), &err);
}

static bool has_name(lk_env *env, const char *name)
{
    char path[LK_TEST_PATH_BYTES];
    bool exists;
    lk_error err;
    CHECK_OK(lk_env_exists(env, lk_test_path(path, DIR, name), &exists, NULL, &err), &err);
    return exists;
}

/* "MANIFEST-NNNNNN" out of CURRENT. */
static void live_name(lk_env *env, char out[64])
{
    bytes *b = malloc(sizeof *b);
    CHECK(b != NULL);
    read_whole(env, "CURRENT", b);
    size_t n = strcspn(b->data, " ");
    CHECK(n < 64 && n < b->len);
    memcpy(out, b->data, n);
    out[n] = 0;
    free(b);
}

static lk_status open_it(lk_env *env, const lk_manifest_options *options, lk_manifest **out,
                         lk_error *err)
{
    return lk_manifest_open(env, DIR, options, NULL, out, err);
}

/* ---- the script: STEPS edits, with the state after each ---- */

enum { STEPS = 16 };

typedef struct script {
    model_ops ops[STEPS];
    model *states[STEPS + 1];
} script;

static const lk_manifest_options SMALL = {.rotate_bytes = 2200, .line_bytes = 900};

static script *script_new(uint64_t seed)
{
    uint64_t rng = seed, next = 1;
    script *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    for (int i = 0; i <= STEPS; i++) {
        s->states[i] = calloc(1, sizeof *s->states[i]);
        CHECK(s->states[i] != NULL);
    }
    for (int i = 0; i < STEPS; i++) {
        do {
            memcpy(s->states[i + 1], s->states[i], sizeof *s->states[i]);
            model_random_ops(s->states[i], &rng, &next, &s->ops[i]);
        } while (!model_apply(s->states[i + 1], &s->ops[i]));
    }
    return s;
}

static void script_free(script *s)
{
    for (int i = 0; i <= STEPS; i++) free(s->states[i]);
    free(s);
}

/* Edit i + 1, which leads from state i to state i + 1. */
static lk_status script_append(const script *s, int i, lk_manifest *m, lk_error *err)
{
    lk_edit e;
    char name[16], value[16];
    lk_edit_init(&e);
    model_edit(&s->ops[i], &e);
    e.last_seq = (uint64_t)(i + 1) * 100;
    e.log_retired = (uint64_t)(i + 1) / 2;
    e.clean = i % 5 == 4;
    if (e.clean) {
        e.durable_generation = (uint64_t)i + 1;
        e.durable_end = (uint64_t)i + 4096;
    }
    (void)snprintf(name, sizeof name, "p%d", i % 3);
    (void)snprintf(value, sizeof value, "v%d", i + 1);
    CHECK_OK(lk_edit_set(&e, name, i % 7 == 6 ? NULL : value, err), err);
    lk_status st = lk_manifest_append(m, &e, NULL, err);
    lk_edit_deinit(&e);
    return st;
}

/* Whether the manifest holds state n, whole. */
static void script_check(const script *s, uint64_t n, lk_manifest *m)
{
    lk_version *v = lk_manifest_version(m);
    uint64_t generation, end, durable = n / 5 * 5;
    CHECK(n <= STEPS);
    model_check(s->states[n], v);
    lk_version_unref(v);
    CHECK_EQ(lk_manifest_last_seq(m), n * 100);
    CHECK_EQ(lk_manifest_log_retired(m), n / 2);
    lk_manifest_durable(m, &generation, &end);
    CHECK_EQ(generation, durable);
    CHECK_EQ(end, durable == 0 ? 0 : durable - 1 + 4096);
    for (uint64_t p = 0; p < 3; p++) {
        char name[32], value[32];
        uint64_t last = 0; /* edit that set it last */
        for (uint64_t i = 1; i <= n; i++) last = (i - 1) % 3 == p ? i : last;
        (void)snprintf(name, sizeof name, "p%llu", (unsigned long long)p);
        (void)snprintf(value, sizeof value, "v%llu", (unsigned long long)last);
        CHECK_STR_EQ(lk_manifest_property(m, name),
                     last == 0 || (last - 1) % 7 == 6 ? NULL : value);
    }
}

static uint64_t number_of(lk_manifest *m)
{
    lk_version *v = lk_manifest_version(m);
    uint64_t number = v->number;
    lk_version_unref(v);
    return number;
}

/* A store of the script's first `count` edits in one manifest; the machine is the caller's. */
static lk_sim *script_store(const script *s, int count, size_t line_bytes)
{
    lk_error err;
    lk_manifest *m;
    lk_manifest_options options = {.line_bytes = line_bytes};
    lk_sim *sim = machine_new(3);
    CHECK_OK(lk_manifest_create(lk_sim_env(sim), DIR, &options, NULL, &m, &err), &err);
    for (int i = 0; i < count; i++) CHECK_OK(script_append(s, i, m, &err), &err);
    script_check(s, (uint64_t)count, m);
    lk_manifest_close(m);
    return sim;
}

/* ---- creating, opening, appending ---- */

LK_TEST(a_new_store_is_empty_and_opens_again)
{
    lk_error err;
    lk_manifest *m;
    bool exists;
    lk_sim *sim = machine_new(1);
    lk_env *env = lk_sim_env(sim);
    CHECK_OK(lk_manifest_exists(env, DIR, &exists, &err), &err);
    CHECK(!exists);
    CHECK_EQ(open_it(env, NULL, &m, &err), LK_NOT_FOUND);
    CHECK(m == NULL);
    CHECK_OK(lk_manifest_create(env, DIR, NULL, NULL, &m, &err), &err);
    CHECK_EQ(number_of(m), 0);
    CHECK(!lk_manifest_was_clean(m));
    lk_manifest_close(m);
    CHECK_OK(lk_manifest_exists(env, DIR, &exists, &err), &err);
    CHECK(exists);
    CHECK_EQ(lk_manifest_create(env, DIR, NULL, NULL, &m, &err), LK_EXISTS);
    CHECK_OK(open_it(env, NULL, &m, &err), &err);
    CHECK_EQ(number_of(m), 0);
    CHECK_EQ(lk_manifest_property_count(m), 0);
    lk_manifest_close(m);
    lk_sim_free(sim);
}

LK_TEST(the_script_survives_reopening_after_each_edit_and_every_rotation)
{
    lk_error err;
    lk_manifest *m;
    char first[64], last[64];
    script *s = script_new(lk_test_seed());
    lk_sim *sim = machine_new(2);
    lk_env *env = lk_sim_env(sim);
    CHECK_OK(lk_manifest_create(env, DIR, &SMALL, NULL, &m, &err), &err);
    live_name(env, first);
    for (int i = 0; i < STEPS; i++) {
        CHECK_OK(script_append(s, i, m, &err), &err);
        script_check(s, (uint64_t)i + 1, m);
        lk_manifest_close(m);
        CHECK_OK(open_it(env, &SMALL, &m, &err), &err);
        script_check(s, (uint64_t)i + 1, m);
        CHECK_EQ(lk_manifest_was_clean(m), i % 5 == 4);
    }
    live_name(env, last);
    CHECK(strcmp(first, last) != 0);
    CHECK(!has_name(env, first));
    lk_manifest_close(m);
    lk_sim_free(sim);
    script_free(s);
}

LK_TEST(random_edits_and_reopenings_give_what_the_model_says)
{
    uint64_t rng = lk_test_seed() ^ 0xbeef, next = 1;
    lk_error err;
    lk_manifest *m;
    model *is = calloc(1, sizeof *is), *tried = calloc(1, sizeof *tried);
    CHECK(is != NULL && tried != NULL);
    lk_sim *sim = machine_new(4);
    lk_env *env = lk_sim_env(sim);
    lk_manifest_options options = {.rotate_bytes = 30000, .line_bytes = 2000};
    CHECK_OK(lk_manifest_create(env, DIR, &options, NULL, &m, &err), &err);
    for (int round = 0; round < 1500; round++) {
        model_ops ops;
        lk_edit e;
        lk_version *v = NULL;
        model_random_ops(is, &rng, &next, &ops);
        memcpy(tried, is, sizeof *is);
        bool fits = model_apply(tried, &ops);
        lk_edit_init(&e);
        model_edit(&ops, &e);
        lk_status st = lk_manifest_append(m, &e, &v, &err);
        lk_edit_deinit(&e);
        if (fits) {
            CHECK_OK(st, &err);
            memcpy(is, tried, sizeof *is);
            model_check(is, v);
        } else {
            CHECK_EQ(st, LK_CORRUPT);
            CHECK(v == NULL);
        }
        lk_version_unref(v);
        if (lk_test_below(&rng, 20) != 0) continue;
        lk_manifest_close(m);
        if (lk_test_below(&rng, 2) == 0) lk_sim_power_cut(sim, LK_SIM_LOSE_UNSYNCED, rng);
        CHECK_OK(open_it(env, &options, &m, &err), &err);
        v = lk_manifest_version(m);
        model_check(is, v);
        lk_version_unref(v);
        uint64_t most = 0;
        for (size_t i = 0; i < is->table_count; i++) {
            if (is->tables[i].file > most) most = is->tables[i].file;
            if (is->tables[i].stamp > most) most = is->tables[i].stamp;
        }
        CHECK(lk_manifest_next_file(m) > most);
    }
    lk_manifest_close(m);
    lk_sim_free(sim);
    free(is);
    free(tried);
}

LK_TEST(creation_and_rotation_write_sync_and_rename_in_order)
{
    lk_error err;
    lk_manifest *m;
    lk_edit e;
    lk_manifest_options options = {.rotate_bytes = 1};
    lk_sim *sim = machine_new(1);
    lk_env *env = lk_sim_env(sim);
    lk_sim_trace(sim, true);
    CHECK_OK(lk_manifest_create(env, DIR, &options, NULL, &m, &err), &err);
    lk_edit_init(&e);
    for (int i = 0; i < 3; i++) {
        CHECK_OK(lk_edit_set(&e, "some", "property that makes the line long enough", &err), &err);
        CHECK_OK(lk_manifest_append(m, &e, NULL, &err), &err);
    }
    lk_edit_deinit(&e);
    lk_manifest_close(m);
    static const char *const ORDER[] = {
        "open /db/MANIFEST-000001",
        "write /db/MANIFEST-000001",
        "sync /db/MANIFEST-000001",
        "sync_dir /db",
        "open /db/CURRENT.tmp",
        "write /db/CURRENT.tmp",
        "sync /db/CURRENT.tmp",
        "rename /db/CURRENT.tmp",
        "sync_dir /db",
        "write /db/MANIFEST-000001",
        "datasync /db/MANIFEST-000001", /* edit 1 */
        "open /db/MANIFEST-000002",
        "write /db/MANIFEST-000002",
        "sync /db/MANIFEST-000002",
        "sync_dir /db",
        "open /db/CURRENT.tmp",
        "write /db/CURRENT.tmp",
        "sync /db/CURRENT.tmp",
        "rename /db/CURRENT.tmp",
        "sync_dir /db",
        "unlink /db/MANIFEST-000001", /* edit 2, in the new one's state */
        "write /db/MANIFEST-000002",
        "datasync /db/MANIFEST-000002", /* edit 3 */
    };
    char *trace = lk_sim_trace_take(sim);
    CHECK(trace != NULL);
    char *line = trace;
    for (size_t i = 0; i < sizeof ORDER / sizeof *ORDER; i++) {
        if (strncmp(line, ORDER[i], strlen(ORDER[i])) != 0) {
            lk_test_fail(__FILE__, __LINE__, "call %zu is not \"%s\":\n%s", i, ORDER[i], trace);
        }
        line = strchr(line, '\n');
        CHECK(line != NULL);
        line++;
    }
    CHECK_EQ(*line, 0);
    free(trace);
    lk_sim_free(sim);
}

LK_TEST(a_clean_close_shortens_a_long_manifest)
{
    lk_error err;
    lk_manifest *m;
    lk_edit e;
    char name[64];
    lk_manifest_options options = {.rotate_bytes = 16000};
    lk_sim *sim = machine_new(1);
    lk_env *env = lk_sim_env(sim);
    CHECK_OK(lk_manifest_create(env, DIR, &options, NULL, &m, &err), &err);
    lk_edit_init(&e);
    for (int i = 0; i < 50; i++) CHECK_OK(lk_manifest_append(m, &e, NULL, &err), &err);
    live_name(env, name);
    CHECK_STR_EQ(name, "MANIFEST-000001");
    e.clean = true;
    CHECK_OK(lk_manifest_append(m, &e, NULL, &err), &err);
    lk_manifest_close(m);
    live_name(env, name);
    CHECK_STR_EQ(name, "MANIFEST-000002");
    CHECK_OK(open_it(env, &options, &m, &err), &err);
    CHECK(lk_manifest_was_clean(m));
    CHECK_EQ(number_of(m), 51);
    e.clean = false;
    CHECK_OK(lk_manifest_append(m, &e, NULL, &err), &err);
    lk_manifest_close(m);
    CHECK_OK(open_it(env, &options, &m, &err), &err);
    CHECK(!lk_manifest_was_clean(m));
    lk_manifest_close(m);
    lk_edit_deinit(&e);
    lk_sim_free(sim);
}

LK_TEST(file_numbers_are_never_given_twice)
{
    lk_error err;
    lk_manifest *m;
    lk_edit e;
    lk_sim *sim = machine_new(1);
    lk_env *env = lk_sim_env(sim);
    lk_edit_init(&e);
    CHECK_OK(lk_manifest_create(env, DIR, NULL, NULL, &m, &err), &err);
    uint64_t a = lk_manifest_next_file(m), b = lk_manifest_next_file(m);
    CHECK(a > 1 && b > a);
    CHECK_OK(lk_manifest_append(m, &e, NULL, &err), &err);
    uint64_t c = lk_manifest_next_file(m); /* not said in any edit */
    lk_manifest_close(m);
    CHECK_OK(open_it(env, NULL, &m, &err), &err);
    lk_manifest_saw_file(m, c); /* but its file is there */
    lk_manifest_saw_file(m, 1);
    lk_manifest_saw_file(m, UINT64_MAX); /* a name that is not ours */
    CHECK_EQ(lk_manifest_next_file(m), c + 1);
    lk_manifest_close(m);
    lk_sim_free(sim);
}

LK_TEST(properties_are_kept_in_the_order_of_their_names)
{
    lk_error err;
    lk_manifest *m;
    lk_edit e;
    const char *name, *value;
    lk_sim *sim = machine_new(1);
    lk_env *env = lk_sim_env(sim);
    lk_edit_init(&e);
    CHECK_OK(lk_manifest_create(env, DIR, NULL, NULL, &m, &err), &err);
    CHECK_OK(lk_edit_set(&e, "b", "2", &err), &err);
    CHECK_OK(lk_edit_set(&e, "a", "quote \" and line\n", &err), &err);
    CHECK_OK(lk_edit_set(&e, "gone", "x", &err), &err);
    CHECK_OK(lk_edit_set(&e, "gone", NULL, &err), &err);
    CHECK_OK(lk_edit_set(&e, "back", NULL, &err), &err);
    CHECK_OK(lk_edit_set(&e, "back", "", &err), &err);
    CHECK_OK(lk_manifest_append(m, &e, NULL, &err), &err);
    lk_edit_deinit(&e);
    bytes *b = calloc(1, sizeof *b);
    CHECK(b != NULL);
    read_whole(env, "MANIFEST-000001", b);
    CHECK(strstr(b->data, "\"unset\":[\"gone\"]") != NULL);
    CHECK(strstr(b->data, "\"gone\":") == NULL); /* what the same edit takes back is not written */
    free(b);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(lk_manifest_property_count(m), 3);
        lk_manifest_property_at(m, 0, &name, &value);
        CHECK_STR_EQ(name, "a");
        CHECK_STR_EQ(value, "quote \" and line\n");
        CHECK_STR_EQ(lk_manifest_property(m, "b"), "2");
        CHECK_STR_EQ(lk_manifest_property(m, "back"), "");
        CHECK(lk_manifest_property(m, "gone") == NULL);
        lk_manifest_close(m);
        CHECK_OK(open_it(env, NULL, &m, &err), &err);
    }
    lk_manifest_close(m);
    lk_sim_free(sim);
}

LK_TEST(a_large_state_is_written_in_lines_of_bounded_length)
{
    lk_error err;
    lk_manifest *m;
    char name[64];
    script *s = script_new(99);
    lk_manifest_options options = {.rotate_bytes = 1, .line_bytes = 600};
    lk_sim *sim = machine_new(1);
    lk_env *env = lk_sim_env(sim);
    bytes *b = malloc(sizeof *b);
    CHECK(b != NULL);
    CHECK_OK(lk_manifest_create(env, DIR, &options, NULL, &m, &err), &err);
    size_t lines_most = 0;
    for (int i = 0; i < STEPS; i++) {
        CHECK_OK(script_append(s, i, m, &err), &err);
        live_name(env, name);
        read_whole(env, name, b);
        size_t lines = 0, longest = 0;
        for (char *p = b->data, *end; p < b->data + b->len; p = end + 1, lines++) {
            end = memchr(p, '\n', (size_t)(b->data + b->len - p));
            CHECK(end != NULL);
            if (strncmp(p + 17, "{\"edit\"", 7) == 0) break;
            if ((size_t)(end - p) > longest) longest = (size_t)(end - p);
        }
        CHECK(longest < 600 + 200);
        if (lines > lines_most) lines_most = lines;
    }
    CHECK(lines_most > 3);
    lk_manifest_close(m);
    CHECK_OK(open_it(env, &options, &m, &err), &err);
    script_check(s, STEPS, m);
    lk_manifest_close(m);
    free(b);
    lk_sim_free(sim);
    script_free(s);
}

/* ---- damage ---- */

/* Opens a copy of the store in which `name` holds these bytes, first to read, then to write and go
 * on. LK_OK gives the state's number. */
static lk_status open_changed(lk_sim *original, const script *s, const char *name, const void *data,
                              size_t len, uint64_t *out_number)
{
    lk_error err;
    lk_manifest *m;
    lk_sim *sim = lk_sim_clone(original);
    lk_env *env = lk_sim_env(sim);
    lk_manifest_options options = {.read_only = true};
    *out_number = UINT64_MAX;
    write_whole(env, name, data, len);
    uint64_t calls = lk_sim_calls(sim);
    lk_status st = open_it(env, &options, &m, &err);
    CHECK_EQ(lk_sim_calls(sim), calls);
    CHECK((st == LK_OK) == (m != NULL));
    if (st == LK_OK) {
        *out_number = number_of(m);
        script_check(s, *out_number, m);
        lk_manifest_close(m);
        CHECK_OK(open_it(env, NULL, &m, &err), &err);
        script_check(s, *out_number, m);
        if (*out_number < STEPS) {
            CHECK_OK(script_append(s, (int)*out_number, m, &err), &err);
            lk_manifest_close(m);
            CHECK_OK(open_it(env, NULL, &m, &err), &err);
            script_check(s, *out_number + 1, m);
        }
        lk_manifest_close(m);
    } else {
        CHECK(strstr(err.path, name) != NULL);
        lk_status again = open_it(env, NULL, &m, NULL);
        CHECK_EQ(again, st);
    }
    lk_sim_free(sim);
    return st;
}

LK_TEST(no_flipped_bit_loses_an_edit)
{
    script *s = script_new(7);
    lk_sim *sim = script_store(s, 6, 300);
    bytes *b = malloc(sizeof *b);
    CHECK(b != NULL);
    static const char *const NAMES[] = {"MANIFEST-000001", "CURRENT"};
    for (int f = 0; f < 2; f++) {
        read_whole(lk_sim_env(sim), NAMES[f], b);
        for (size_t bit = 0; bit < 8 * b->len; bit++) {
            uint64_t number;
            b->data[bit / 8] = (char)(b->data[bit / 8] ^ (1 << bit % 8));
            lk_status st = open_changed(sim, s, NAMES[f], b->data, b->len, &number);
            if (st != LK_CORRUPT && !(st == LK_OK && number == 6)) {
                lk_test_fail(__FILE__, __LINE__, "%s: bit %zu of byte %zu of %zu: %s, state %llu",
                             NAMES[f], bit % 8, bit / 8, b->len, lk_status_name(st),
                             (unsigned long long)number);
            }
            b->data[bit / 8] = (char)(b->data[bit / 8] ^ (1 << bit % 8));
        }
    }
    free(b);
    lk_sim_free(sim);
    script_free(s);
}

LK_TEST(every_truncation_is_an_earlier_state_or_corruption)
{
    script *s = script_new(8);
    lk_sim *sim = script_store(s, 6, 300);
    bytes *b = malloc(sizeof *b);
    CHECK(b != NULL);
    read_whole(lk_sim_env(sim), "MANIFEST-000001", b);
    uint64_t before = UINT64_MAX;
    for (size_t len = 0; len <= b->len; len++) {
        uint64_t number, lines = 0;
        lk_status st = open_changed(sim, s, "MANIFEST-000001", b->data, len, &number);
        for (size_t i = 0; i < len; i++) lines += b->data[i] == '\n';
        if (len < b->len && b->data[len] == '\n' && len > 0) lines++; /* only the newline lacks */
        if (lines == 0) {
            CHECK_EQ(st, LK_CORRUPT);
        } else {
            CHECK_EQ(st, LK_OK);
            CHECK_EQ(number, lines - 1);
            before = number;
        }
    }
    CHECK_EQ(before, 6);
    read_whole(lk_sim_env(sim), "CURRENT", b);
    for (size_t len = 0; len < b->len; len++) {
        uint64_t number;
        CHECK_EQ(open_changed(sim, s, "CURRENT", b->data, len, &number), LK_CORRUPT);
    }
    free(b);
    lk_sim_free(sim);
    script_free(s);
}

LK_TEST(a_last_line_with_pieces_never_written_is_torn_and_an_earlier_one_is_not)
{
    uint64_t number;
    script *s = script_new(9);
    lk_sim *sim = script_store(s, 6, 0);
    bytes *b = malloc(sizeof *b), *c = malloc(sizeof *c);
    CHECK(b != NULL && c != NULL);
    read_whole(lk_sim_env(sim), "MANIFEST-000001", b);
    size_t starts[8] = {0}, n = 1; /* of lines; the last entry is the end */
    for (size_t i = 0; i < b->len; i++) {
        if (b->data[i] == '\n') starts[n++] = i + 1;
    }
    CHECK_EQ(n, 8);
    for (size_t line = 1; line < 7; line++) {
        for (size_t from = starts[line]; from < starts[line + 1]; from += 64 - from % 64) {
            size_t to = from - from % 64 + 64;
            if (to > starts[line + 1]) to = starts[line + 1];
            memcpy(c, b, sizeof *b);
            memset(c->data + from, 0, to - from);
            lk_status st = open_changed(sim, s, "MANIFEST-000001", c->data, c->len, &number);
            CHECK_EQ(st, line == 6 ? LK_OK : LK_CORRUPT);
            if (line == 6) CHECK_EQ(number, 5);
        }
    }
    /* Zeros that do not fill a piece, and other damage, are no tear. */
    memcpy(c, b, sizeof *b);
    memset(c->data + starts[6] + 20, 0, 5);
    CHECK_EQ(open_changed(sim, s, "MANIFEST-000001", c->data, c->len, &number), LK_CORRUPT);
    memcpy(c, b, sizeof *b);
    memset(c->data + starts[6] + 20, 'x', 100);
    CHECK_EQ(open_changed(sim, s, "MANIFEST-000001", c->data, c->len, &number), LK_CORRUPT);
    /* Something behind a torn line. */
    memcpy(c, b, sizeof *b);
    memset(c->data + starts[5], 0, starts[6] - starts[5]);
    CHECK_EQ(open_changed(sim, s, "MANIFEST-000001", c->data, c->len, &number), LK_CORRUPT);
    free(b);
    free(c);
    lk_sim_free(sim);
    script_free(s);
}

/* ---- lines by hand ---- */

/* Writes a manifest of these JSON objects, with right checksums, and opens it. */
static lk_status open_lines(const char *const *lines, size_t count, lk_manifest **out,
                            lk_sim **out_sim, lk_error *err)
{
    bytes *b = calloc(1, sizeof *b);
    CHECK(b != NULL);
    uint64_t chain = 7;
    for (size_t i = 0; i < count; i++) {
        size_t len = strlen(lines[i]);
        chain = XXH3_64bits_withSeed(lines[i], len, chain);
        lk_hex16_write(chain, b->data + b->len);
        b->data[b->len + 16] = ' ';
        memcpy(b->data + b->len + 17, lines[i], len);
        b->data[b->len + 17 + len] = '\n';
        b->len += len + 18;
    }
    *out_sim = machine_new(1);
    lk_env *env = lk_sim_env(*out_sim);
    write_whole(env, "MANIFEST-000007", b->data, b->len);
    write_whole(env, "CURRENT", EXAMPLE_CURRENT, strlen(EXAMPLE_CURRENT));
    free(b);
    return open_it(env, NULL, out, err);
}

static void refuses(lk_status status, const char *why, const char *first, const char *second)
{
    const char *lines[] = {first, second};
    lk_manifest *m;
    lk_sim *sim;
    lk_error err;
    lk_status st = open_lines(lines, second == NULL ? 1 : 2, &m, &sim, &err);
    if (st != status || strstr(err.message, why) == NULL) {
        lk_test_fail(__FILE__, __LINE__, "%s, \"%s\" is not \"%s\":\n%s\n%s", lk_status_name(st),
                     st == LK_OK ? "" : err.message, why, first, second == NULL ? "" : second);
    }
    CHECK(strstr(err.path, "MANIFEST-000007") != NULL);
    CHECK(second == NULL || err.offset >= strlen(first) + 18);
    lk_sim_free(sim);
}

#define BASE "{\"format\":1,\"manifest\":7,\"edit\":41,\"next_file\":18"
#define WHOLE BASE ",\"complete\":true}"
#define TABLE(tree, file, min, max)                                                                \
    "{\"tree\":" #tree ",\"file\":" #file                                                          \
    ",\"level\":0,\"stamp\":9,\"bytes\":1,\"rows\":1,\"tombstones\":0,\"raw_bytes\":1,"            \
    "\"seq_min\":1,\"seq_max\":1,\"nonce\":\"0000000000000000\",\"min\":\"" min                    \
    "\",\"max\":\"" max "\"}"

LK_TEST(members_that_are_not_known_are_passed_over)
{
    const char *lines[] = {
        "{\"format\":1,\"new\":[{\"a\":true}],\"manifest\":7,\"edit\":41,\"next_file\":18,"
        "\"complete\":true,\"later\":\"x\"}",
        "{\"edit\":42,\"next_file\":19,\"hint\":{\"add\":[1,2,3]},\"split\":[{\"tree\":0,"
        "\"why\":\"large\",\"at\":\"6b\"}]}",
    };
    lk_manifest *m;
    lk_sim *sim;
    lk_error err;
    CHECK_OK(open_lines(lines, 2, &m, &sim, &err), &err);
    lk_version *v = lk_manifest_version(m);
    CHECK_EQ(v->number, 42);
    CHECK_EQ(lk_version_tree(v, 0)->range_count, 2);
    lk_version_unref(v);
    CHECK_EQ(lk_manifest_next_file(m), 19);
    lk_manifest_close(m);
    lk_sim_free(sim);
}

LK_TEST(lines_that_contradict_the_format_are_refused_with_their_place)
{
    refuses(LK_UNSUPPORTED, "format 2", "{\"format\":2,\"everything\":null}", NULL);
    refuses(LK_CORRUPT, "first member", "{\"edit\":41,\"format\":1,\"manifest\":7}", NULL);
    refuses(LK_CORRUPT, "begins with", "{\"manifest\":7,\"edit\":41,\"complete\":true}", NULL);
    refuses(LK_CORRUPT, "another one", "{\"format\":1,\"manifest\":8,\"edit\":1,\"complete\":true}",
            NULL);
    refuses(LK_CORRUPT, "ends before", BASE "}", NULL);
    refuses(LK_CORRUPT, "begins with", BASE "}", "{\"edit\":42,\"complete\":true}");
    refuses(LK_CORRUPT, "never reached",
            "{\"format\":1,\"manifest\":7,\"edit\":41,\"next_file\":18446744073709551615,"
            "\"complete\":true}",
            NULL);
    refuses(LK_CORRUPT, "another number", WHOLE, "{\"edit\":43,\"next_file\":18}");
    refuses(LK_CORRUPT, "another number", WHOLE, "{\"edit\":41,\"next_file\":18}");
    refuses(LK_CORRUPT, "not an edit", WHOLE, "{\"next_file\":18}");
    refuses(LK_CORRUPT, "not an edit", WHOLE, "{\"edit\":42,\"tables\":[]}");
    refuses(LK_CORRUPT, "stands twice", WHOLE, "{\"edit\":42,\"edit\":42}");
    refuses(LK_CORRUPT, "more than one", WHOLE, "{\"edit\":42}{}");
    refuses(LK_CORRUPT, "out of its range", WHOLE, "{\"edit\":42,\"drop\":[1048576]}");
    refuses(LK_CORRUPT, "is missing", WHOLE, "{\"edit\":42,\"split\":[{\"tree\":0}]}");
    refuses(LK_CORRUPT, "no bound", WHOLE, "{\"edit\":42,\"join\":[{\"tree\":0,\"at\":\"6b\"}]}");
    refuses(LK_CORRUPT, "not hexadecimal", WHOLE,
            "{\"edit\":42,\"join\":[{\"tree\":0,\"at\":\"6B\"}]}");
    refuses(LK_CORRUPT, "member of a table", WHOLE, "{\"edit\":42,\"add\":[{\"tree\":0}]}");
    refuses(LK_CORRUPT, "least key", WHOLE, "{\"edit\":42,\"add\":[" TABLE(0, 5, "62", "61") "]}");
    refuses(LK_CORRUPT, "is not there", WHOLE,
            "{\"edit\":42,\"remove\":[{\"tree\":0,\"file\":5,\"lower\":\"\"}]}");
    refuses(LK_CORRUPT, "two numbers", WHOLE, "{\"edit\":42,\"durable\":[1,2,3]}");
    refuses(LK_CORRUPT, "two numbers", WHOLE, "{\"edit\":42,\"durable\":[1]}");
    refuses(LK_CORRUPT, "has a zero", WHOLE, "{\"edit\":42,\"set\":{\"a\":\"\\u0000\"}}");
    refuses(LK_CORRUPT, "name before", WHOLE, "{\"edit\":42,\"set\":{\"\":\"x\"}}");
    refuses(LK_CORRUPT, "string is missing", WHOLE, "{\"edit\":42,\"unset\":[1]}");
    refuses(LK_CORRUPT, "in no range",
            BASE ",\"tables\":[" TABLE(0, 5, "61", "62") "],\"complete\":true}", NULL);
    refuses(LK_CORRUPT, "one of the two is not there",
            BASE ",\"ranges\":[{\"tree\":0,\"lower\":\"\",\"files\":[5]}],\"complete\":true}",
            NULL);
    refuses(LK_CORRUPT, "do not touch",
            BASE
            ",\"tables\":[" TABLE(0, 5, "61", "62") "],\"ranges\":[{\"tree\":0,\"lower\":\"6b\","
                                                    "\"files\":[5]}],\"complete\":true}",
            NULL);
    refuses(
        LK_CORRUPT, "overlaps",
        BASE ",\"tables\":[" TABLE(0, 5, "61", "62") "," TABLE(
            0, 6, "62",
            "63") "],\"ranges\":[{\"tree\":0,\"lower\":\"\",\"files\":[5,6]}],\"complete\":true}",
        NULL);
    refuses(LK_CORRUPT, "another tree",
            BASE ",\"tables\":[" TABLE(0, 5, "61", "62") "," TABLE(1, 5, "61", "62") "]}", NULL);
    refuses(LK_CORRUPT, "object is missing", "[1]", NULL);
    refuses(LK_CORRUPT, "object is missing", "", NULL);
}

LK_TEST(the_worked_example_of_the_format_is_what_is_read_and_written)
{
    lk_manifest *m;
    lk_error err;
    lk_edit e;
    lk_sim *sim = machine_new(1);
    lk_env *env = lk_sim_env(sim);
    bytes *b = malloc(sizeof *b);
    CHECK(b != NULL);
    write_whole(env, "MANIFEST-000007", EXAMPLE_BASE, strlen(EXAMPLE_BASE));
    write_whole(env, "CURRENT", EXAMPLE_CURRENT, strlen(EXAMPLE_CURRENT));
    CHECK_OK(open_it(env, NULL, &m, &err), &err);
    lk_version *v = lk_manifest_version(m);
    const lk_tree_version *t = lk_version_tree(v, 0);
    CHECK_EQ(v->number, 41);
    CHECK_EQ(t->range_count, 2);
    CHECK_EQ(t->ranges[0].run_count, 0); /* the table has left it, although it has keys of it */
    CHECK_EQ(t->ranges[1].run_count, 1);
    CHECK_EQ(lk_table_meta_of(t->files[0].table)->nonce, UINT64_C(0x00c0ffee00c0ffee));
    lk_version_unref(v);
    CHECK_STR_EQ(lk_manifest_property(m, "keyspace/16"), "name=readings\n");
    CHECK_EQ(lk_manifest_log_retired(m), 3);

    lk_edit_init(&e);
    lk_table_meta from = {.file = 17,
                          .nonce = UINT64_C(0x0123456789abcdef),
                          .bytes = 5000,
                          .rows = 100,
                          .raw_bytes = 11600,
                          .seq_min = 9001,
                          .seq_max = 9100,
                          .min_key = (uint8_t *)(uintptr_t) "apple",
                          .min_len = 5,
                          .max_key = (uint8_t *)(uintptr_t) "pear",
                          .max_len = 4};
    lk_table_meta meta;
    CHECK_OK(lk_table_meta_copy(&from, &meta, &err), &err);
    CHECK_OK(lk_edit_add_table(&e, &meta, 0, 18, NULL, &err), &err);
    e.last_seq = 9100;
    e.log_retired = 4;
    CHECK_OK(lk_manifest_append(m, &e, NULL, &err), &err);
    lk_edit_deinit(&e);
    lk_manifest_close(m);
    read_whole(env, "MANIFEST-000007", b);
    b->data[b->len] = 0;
    CHECK_EQ(b->len, strlen(EXAMPLE_BASE) + strlen(EXAMPLE_EDIT));
    CHECK_STR_EQ(b->data + strlen(EXAMPLE_BASE), EXAMPLE_EDIT);
    free(b);
    lk_sim_free(sim);
}

/* The document beside the sources, whole; NULL where there is none. */
static char *read_document(const char *name)
{
    char path[LK_TEST_PATH_BYTES];
    const char *slash = strrchr(__FILE__, '/');
    int n = slash == NULL ? 1 : (int)(slash - __FILE__);
    (void)snprintf(path, sizeof path, "%.*s/../../docs/%s", n, slash == NULL ? "." : __FILE__,
                   name);
    FILE *file = fopen(path, "r");
    if (file == NULL) return NULL;
    char *text = calloc(1, 1 << 20);
    CHECK(text != NULL);
    CHECK(fread(text, 1, (1 << 20) - 1, file) > 0);
    CHECK_EQ(fclose(file), 0);
    return text;
}

LK_TEST(the_format_document_shows_the_worked_example)
{
    char *a = read_document("FORMAT.md"), *b = read_document("FORMAT-manifest.md");
    if (a == NULL && b == NULL) lk_test_skip("the documents are not beside the sources");
    static const char *const SHOWN[] = {EXAMPLE_CURRENT, EXAMPLE_BASE, EXAMPLE_EDIT};
    for (size_t i = 0; i < sizeof SHOWN / sizeof *SHOWN; i++) {
        bool is_shown = (a != NULL && strstr(a, SHOWN[i]) != NULL) ||
                        (b != NULL && strstr(b, SHOWN[i]) != NULL);
        if (!is_shown) lk_test_fail(__FILE__, __LINE__, "not in the document: %s", SHOWN[i]);
    }
    free(a);
    free(b);
}

/* ---- power, failures ---- */

/* What a run of the script came to. */
typedef struct outcome {
    bool is_created;  /* lk_manifest_create returned success */
    int acknowledged; /* edits */
    int tried;
    lk_status status; /* of what failed */
} outcome;

/* Creates the store and appends all edits, reopening twice on the way; ends at the first failure,
 * after having seen that the failure stays. */
static outcome script_run(const script *s, lk_env *env)
{
    outcome o = {.is_created = false};
    lk_error err, again;
    lk_manifest *m;
    o.status = lk_manifest_create(env, DIR, &SMALL, NULL, &m, &err);
    if (o.status != LK_OK) return o;
    o.is_created = true;
    for (int i = 0; i < STEPS; i++) {
        if (i == 5 || i == 11) {
            lk_manifest_close(m);
            o.status = open_it(env, &SMALL, &m, &err);
            if (o.status != LK_OK) return o;
        }
        o.tried = i + 1;
        o.status = script_append(s, i, m, &err);
        if (o.status != LK_OK) {
            CHECK_EQ(script_append(s, i, m, &again), o.status);
            CHECK_STR_EQ(again.message, err.message);
            CHECK_EQ(number_of(m), i); /* nothing was published */
            break;
        }
        o.acknowledged = i + 1;
    }
    lk_manifest_close(m);
    return o;
}

/* Opens what is left, and goes on from there. Returns the state's number, -1 for no store. */
static int check_left(const script *s, lk_env *env, const outcome *o)
{
    lk_error err;
    lk_manifest *m;
    lk_status st = open_it(env, &SMALL, &m, &err);
    if (st == LK_NOT_FOUND && !o->is_created) {
        CHECK_OK(lk_manifest_create(env, DIR, &SMALL, NULL, &m, &err), &err);
        lk_manifest_close(m);
        return -1;
    }
    CHECK_OK(st, &err);
    int number = (int)number_of(m);
    CHECK(number >= o->acknowledged && number <= o->tried);
    script_check(s, (uint64_t)number, m);
    for (int i = number; i < STEPS && i < number + 3; i++) {
        CHECK_OK(script_append(s, i, m, &err), &err);
        script_check(s, (uint64_t)i + 1, m);
    }
    lk_manifest_close(m);
    return number;
}

LK_TEST(no_power_cut_at_any_call_loses_what_was_acknowledged)
{
    script *s = script_new(11);
    uint64_t rng = lk_test_seed();
    lk_sim *whole = machine_new(5);
    uint64_t first = lk_sim_calls(whole);
    outcome all = script_run(s, lk_sim_env(whole));
    CHECK_EQ(all.acknowledged, STEPS);
    uint64_t calls = lk_sim_calls(whole);
    CHECK(calls > first + 60);
    lk_sim_free(whole);
    size_t before = 0, after = 0;
    for (uint64_t call = first + 1; call <= calls + 1; call++) {
        lk_sim *sim = machine_new(5);
        lk_sim_set_writeback(sim, call % 2 == 0 ? 300 : 0);
        lk_sim_crash_at(sim, call);
        outcome o = script_run(s, lk_sim_env(sim));
        for (int cut = 0; cut < 6; cut++) {
            lk_sim *left = lk_sim_clone(sim);
            if (cut == 0) lk_sim_kill(left);
            if (cut == 1) lk_sim_power_cut(left, LK_SIM_LOSE_UNSYNCED, 1);
            if (cut == 2) lk_sim_power_cut(left, LK_SIM_KEEP_ALL, 1);
            if (cut > 2) lk_sim_power_cut(left, LK_SIM_RANDOM, lk_test_rand(&rng));
            if (cut == 0 || cut > 3) {
                /* A second one while the store is opened and goes on. */
                outcome again = o;
                lk_error err;
                lk_manifest *m;
                lk_sim_crash_at(left, lk_sim_calls(left) + 1 + lk_test_below(&rng, 12));
                if (open_it(lk_sim_env(left), &SMALL, &m, &err) == LK_OK) {
                    again.is_created = true;
                    again.acknowledged = (int)number_of(m);
                    CHECK(again.acknowledged >= o.acknowledged && again.acknowledged <= o.tried);
                    for (int i = again.acknowledged; i < STEPS; i++) {
                        again.tried = i + 1;
                        if (script_append(s, i, m, &err) != LK_OK) break;
                        again.acknowledged = i + 1;
                    }
                    lk_manifest_close(m);
                }
                lk_sim_power_cut(left, cut == 0 ? LK_SIM_LOSE_UNSYNCED : LK_SIM_RANDOM,
                                 lk_test_rand(&rng));
                (void)check_left(s, lk_sim_env(left), &again);
            } else {
                int number = check_left(s, lk_sim_env(left), &o);
                before += number >= 0 && number < o.tried;
                after += number == o.tried && o.acknowledged < o.tried;
            }
            lk_sim_free(left);
        }
        lk_sim_free(sim);
    }
    CHECK(before > 0 && after > 0); /* both outcomes of an edit in flight were seen */
    script_free(s);
}

LK_TEST(any_call_that_fails_once_leaves_the_state_before_or_after)
{
    script *s = script_new(12);
    size_t failed = 0;
    static const int ERRNOS[] = {EIO, ENOSPC};
    for (uint64_t call = 1;; call++) {
        lk_sim *sim = machine_new(6);
        CHECK(lk_sim_fail(sim, LK_SIM_ANY, call, ERRNOS[call % 2], false));
        uint64_t calls = lk_sim_calls_of(sim, LK_SIM_ANY);
        outcome o = script_run(s, lk_sim_env(sim));
        bool is_reached = lk_sim_calls_of(sim, LK_SIM_ANY) - calls >= call;
        failed += o.status != LK_OK;
        CHECK(o.status == LK_OK || o.status == LK_IO);
        lk_sim_clear_faults(sim);
        for (int cut = 0; cut < 3; cut++) {
            lk_sim *left = lk_sim_clone(sim);
            if (cut == 1) lk_sim_power_cut(left, LK_SIM_LOSE_UNSYNCED, call);
            if (cut == 2) lk_sim_power_cut(left, LK_SIM_RANDOM, call);
            (void)check_left(s, lk_sim_env(left), &o);
            lk_sim_free(left);
        }
        /* The same machine opens it again at once, goes on, and then the power goes. Where there
         * is no edit to go on with, the simulated sync leaves a length that a failed one lost. */
        outcome after = {.is_created = true};
        int number = check_left(s, lk_sim_env(sim), &o);
        after.tried = number + 3 < STEPS ? number + 3 : STEPS;
        after.acknowledged = number == STEPS ? o.acknowledged : after.tried;
        lk_sim_power_cut(sim, LK_SIM_LOSE_UNSYNCED, call);
        if (number >= 0) (void)check_left(s, lk_sim_env(sim), &after);
        lk_sim_free(sim);
        if (!is_reached) break;
    }
    CHECK(failed > 60);
    script_free(s);
}

LK_TEST(a_short_write_is_a_torn_line)
{
    script *s = script_new(13);
    for (size_t part = 0; part < 200; part += 7) {
        lk_error err;
        lk_manifest *m;
        lk_sim *sim = machine_new(6);
        lk_env *env = lk_sim_env(sim);
        CHECK_OK(lk_manifest_create(env, DIR, NULL, NULL, &m, &err), &err);
        CHECK_OK(script_append(s, 0, m, &err), &err);
        CHECK(lk_sim_short(sim, 1, part, ENOSPC));
        CHECK_EQ(script_append(s, 1, m, &err), LK_IO);
        CHECK_EQ(err.sys_errno, ENOSPC);
        lk_manifest_close(m);
        CHECK_OK(open_it(env, NULL, &m, &err), &err);
        script_check(s, 1, m);
        CHECK_OK(script_append(s, 1, m, &err), &err);
        lk_manifest_close(m);
        CHECK_OK(open_it(env, NULL, &m, &err), &err);
        script_check(s, 2, m);
        lk_manifest_close(m);
        lk_sim_free(sim);
    }
    script_free(s);
}

LK_TEST(nothing_of_a_torn_line_stays_behind_a_shorter_one)
{
    lk_error err;
    lk_manifest *m;
    lk_edit e;
    lk_sim *sim = machine_new(6);
    lk_env *env = lk_sim_env(sim);
    bytes *b = malloc(sizeof *b);
    CHECK(b != NULL);
    lk_edit_init(&e);
    CHECK_OK(lk_manifest_create(env, DIR, NULL, NULL, &m, &err), &err);
    CHECK_OK(lk_manifest_append(m, &e, NULL, &err), &err);
    CHECK_OK(lk_edit_set(&e, "long", "value value value value value value value", &err), &err);
    CHECK(lk_sim_short(sim, 1, 90, EIO));
    CHECK_EQ(lk_manifest_append(m, &e, NULL, &err), LK_IO);
    lk_edit_deinit(&e);
    for (uint64_t n = 1; n < 4; n++) {
        lk_manifest_close(m);
        CHECK_OK(open_it(env, NULL, &m, &err), &err);
        CHECK_EQ(number_of(m), n);
        read_whole(env, "MANIFEST-000001", b);
        CHECK_EQ(b->data[b->len - 1], '\n');
        CHECK_OK(lk_manifest_append(m, &e, NULL, &err), &err);
    }
    lk_manifest_close(m);
    free(b);
    lk_sim_free(sim);
}

LK_TEST(an_edit_whose_sync_failed_is_made_durable_when_it_is_found_again)
{
    script *s = script_new(14);
    for (uint64_t seed = 1; seed < 20; seed++) {
        lk_error err;
        lk_manifest *m;
        lk_sim *sim = machine_new(seed);
        lk_env *env = lk_sim_env(sim);
        CHECK_OK(lk_manifest_create(env, DIR, NULL, NULL, &m, &err), &err);
        CHECK_OK(script_append(s, 0, m, &err), &err);
        CHECK(lk_sim_fail(sim, LK_SIM_DATASYNC, 1, EIO, false));
        CHECK_EQ(script_append(s, 1, m, &err), LK_IO);
        lk_manifest_close(m);
        lk_sim_kill(sim);
        CHECK_OK(open_it(env, NULL, &m, &err), &err);
        uint64_t number = number_of(m);
        CHECK_EQ(number, 2); /* the kernel still shows it */
        CHECK_OK(script_append(s, 2, m, &err), &err);
        lk_manifest_close(m);
        lk_sim_power_cut(sim, LK_SIM_LOSE_UNSYNCED, seed);
        CHECK_OK(open_it(env, NULL, &m, &err), &err);
        script_check(s, 3, m);
        lk_manifest_close(m);
        lk_sim_free(sim);
    }
    script_free(s);
}

LK_TEST(an_edit_that_does_not_fit_leaves_the_manifest_usable)
{
    lk_error err;
    lk_manifest *m;
    lk_edit e;
    lk_sim *sim = machine_new(1);
    lk_env *env = lk_sim_env(sim);
    CHECK_OK(lk_manifest_create(env, DIR, NULL, NULL, &m, &err), &err);
    lk_edit_init(&e);
    CHECK_OK(lk_edit_join(&e, 0, (lk_bytes){(const uint8_t *)"x", 1}, &err), &err);
    uint64_t calls = lk_sim_calls(sim);
    CHECK_EQ(lk_manifest_append(m, &e, NULL, &err), LK_CORRUPT);
    CHECK_EQ(lk_sim_calls(sim), calls);
    lk_edit_deinit(&e);
    CHECK_OK(lk_edit_split(&e, 0, (lk_bytes){(const uint8_t *)"x", 1}, &err), &err);
    CHECK_OK(lk_manifest_append(m, &e, NULL, &err), &err);
    lk_edit_deinit(&e);
    lk_manifest_close(m);
    lk_sim_free(sim);
}

LK_TEST(leftovers_of_a_crash_go_and_other_files_stay)
{
    lk_error err;
    lk_manifest *m;
    script *s = script_new(15);
    lk_sim *sim = script_store(s, 3, 0);
    lk_env *env = lk_sim_env(sim);
    static const char *const OTHERS[] = {"000012.sst", "MANIFEST-1", "MANIFEST-000002x", "notes"};
    write_whole(env, "MANIFEST-000044", "x", 1);
    write_whole(env, "CURRENT.tmp", "x", 1);
    for (size_t i = 0; i < 4; i++) write_whole(env, OTHERS[i], "x", 1);
    lk_manifest_options options = {.read_only = true};
    CHECK_OK(open_it(env, &options, &m, &err), &err);
    CHECK_EQ(script_append(s, 3, m, &err), LK_READONLY);
    lk_manifest_close(m);
    CHECK(has_name(env, "MANIFEST-000044"));
    CHECK_OK(open_it(env, NULL, &m, &err), &err);
    CHECK(!has_name(env, "MANIFEST-000044"));
    CHECK(!has_name(env, "CURRENT.tmp"));
    CHECK(lk_manifest_next_file(m) > 44);
    for (size_t i = 0; i < 4; i++) CHECK(has_name(env, OTHERS[i]));
    script_check(s, 3, m);
    lk_manifest_close(m);
    lk_sim_free(sim);
    script_free(s);
}

LK_TEST(a_manifest_that_current_names_must_be_there)
{
    lk_error err;
    lk_manifest *m;
    script *s = script_new(16);
    lk_sim *sim = script_store(s, 1, 0);
    lk_env *env = lk_sim_env(sim);
    CHECK_OK(lk_env_unlink(env, "/db/MANIFEST-000001", &err), &err);
    CHECK_EQ(open_it(env, NULL, &m, &err), LK_CORRUPT);
    CHECK(strstr(err.message, "MANIFEST-000001") != NULL);
    lk_manifest_options options = {.read_only = true};
    CHECK_EQ(open_it(env, &options, &m, &err), LK_CORRUPT);
    lk_sim_free(sim);
    script_free(s);
}

/* ---- the rest ---- */

typedef struct dumped {
    size_t lines;
    char last[4096];
} dumped;

static void keep_last(void *context, const char *line)
{
    dumped *d = context;
    d->lines++;
    (void)snprintf(d->last, sizeof d->last, "%s", line);
}

LK_TEST(dump_gives_each_line_and_stops_at_damage)
{
    lk_error err;
    dumped d = {.lines = 0};
    script *s = script_new(17);
    lk_sim *sim = script_store(s, 4, 0);
    lk_env *env = lk_sim_env(sim);
    bytes *b = malloc(sizeof *b);
    CHECK(b != NULL);
    CHECK_OK(lk_manifest_dump(env, DIR, keep_last, &d, &err), &err);
    CHECK_EQ(d.lines, 5);
    CHECK(strncmp(d.last + 16, " {\"edit\":4,", 11) == 0);
    CHECK_EQ(d.last[strlen(d.last) - 1], '}');
    read_whole(env, "MANIFEST-000001", b);
    b->data[b->len - 5] = '#';
    write_whole(env, "MANIFEST-000001", b->data, b->len);
    d.lines = 0;
    CHECK_EQ(lk_manifest_dump(env, DIR, keep_last, &d, &err), LK_CORRUPT);
    CHECK_EQ(d.lines, 4);
    free(b);
    lk_sim_free(sim);
    script_free(s);
}

LK_TEST(opening_after_a_thousand_flushes_takes_no_time)
{
    lk_error err;
    lk_manifest *m;
    lk_sim *sim = machine_new(1);
    lk_env *env = lk_sim_env(sim);
    struct timespec a, b;
    CHECK_OK(lk_manifest_create(env, DIR, NULL, NULL, &m, &err), &err);
    uint64_t last = 0;
    for (int i = 0; i < 1000; i++) {
        lk_edit e;
        lk_edit_init(&e);
        model_table t = {.file = lk_manifest_next_file(m), .min = {1, "a"}, .max = {1, "z"}};
        t.stamp = t.file;
        lk_table_meta meta = model_meta(&t);
        CHECK_OK(lk_edit_add_table(&e, &meta, 0, t.stamp, NULL, &err), &err);
        if (last != 0) {
            CHECK_OK(lk_edit_remove_table(&e, 0, (lk_bytes){NULL, 0}, last, &err), &err);
        }
        last = t.file;
        CHECK_OK(lk_manifest_append(m, &e, NULL, &err), &err);
        lk_edit_deinit(&e);
    }
    lk_manifest_close(m);
    double best = 1;
    for (int i = 0; i < 5; i++) {
        clock_gettime(CLOCK_MONOTONIC, &a);
        CHECK_OK(open_it(env, NULL, &m, &err), &err);
        clock_gettime(CLOCK_MONOTONIC, &b);
        double took = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
        if (took < best) best = took;
        CHECK_EQ(number_of(m), 1000);
        lk_manifest_close(m);
    }
    printf("  %.0f us for 1000 edits\n", best * 1e6);
    CHECK(best < 0.1); /* a bound that a slow, sanitized machine keeps */
    lk_sim_free(sim);
}
