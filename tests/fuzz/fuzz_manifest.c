/* Any bytes as a manifest: it is opened, searched, continued and opened again to the same state, or
 * refused as a whole.
 *
 * An input that begins with a brace is a list of JSON lines, to which the right checksums are put, so
 * that what lines mean is reached; any other input is the file as it stands. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "env_sim.h"
#include "hash.h"
#include "manifest.h"
#include "manifest_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { INPUT_BYTES_MAX = 1 << 14, LINES_MAX = 1 << 10 };

static void must(bool is_true, const char *what)
{
    if (is_true) return;
    fprintf(stderr, "not true: %s\n", what);
    abort();
}

static void write_file(lk_env *env, const char *path, const void *data, size_t bytes)
{
    lk_file *file;
    must(lk_env_open(env, path, LK_OPEN_WRITE | LK_OPEN_CREATE, &file, NULL) == LK_OK, "open");
    must(lk_file_write(file, 0, data, bytes, NULL) == LK_OK, "write");
    lk_file_close(file);
}

/* The lines with their checksums, in memory that the caller frees. */
static uint8_t *with_checksums(const uint8_t *data, size_t bytes, size_t *out_bytes)
{
    uint8_t *out = malloc(bytes + 18 * (size_t)LINES_MAX);
    must(out != NULL, "memory");
    size_t to = 0, lines = 0;
    uint64_t chain = 1;
    for (size_t from = 0; from < bytes && lines < LINES_MAX; lines++) {
        const uint8_t *newline = memchr(data + from, '\n', bytes - from);
        size_t end = newline == NULL ? bytes : (size_t)(newline - data);
        chain = XXH3_64bits_withSeed(data + from, end - from, chain);
        lk_hex16_write(chain, (char *)out + to);
        out[to + 16] = ' ';
        memcpy(out + to + 17, data + from, end - from);
        out[to + 17 + end - from] = '\n';
        to += 18 + end - from;
        from = end + 1;
    }
    *out_bytes = to;
    return out;
}

static void count_line(void *context, const char *line) { *(size_t *)context += strlen(line); }

/* Asks for every bound in every way. */
static void look_at(const lk_version *v)
{
    size_t sum = 0;
    lk_version_dump(v, count_line, &sum);
    for (uint32_t i = 0; i < v->tree_count; i++) {
        const lk_tree_version *t = v->trees[i];
        for (uint32_t r = 0; t != NULL && r < t->range_count; r++) {
            lk_bytes lower = t->ranges[r].lower;
            must(lk_tree_version_range(t, lower.data, lower.len) == r, "its own range");
            for (uint32_t k = 0; k < t->ranges[r].run_count; k++) {
                const lk_run *run = &t->ranges[r].runs[k];
                for (uint32_t n = 0; n < run->count; n++) {
                    const lk_table_meta *m = lk_table_meta_of(run->tables[n]);
                    must(lk_run_table(run, m->min_key, m->min_len) == run->tables[n], "its least");
                    must(lk_run_seek(run, m->max_key, m->max_len) == n, "its greatest");
                }
            }
        }
    }
}

static void go_on(lk_env *env)
{
    lk_manifest *m;
    lk_error err;
    lk_edit e;
    lk_status st = lk_manifest_open(env, "/", NULL, NULL, &m, &err);
    must(st == LK_OK || st == LK_CORRUPT || st == LK_UNSUPPORTED, "a status of damage");
    if (st != LK_OK) return;
    lk_version *v = lk_manifest_version(m);
    look_at(v);
    lk_edit_init(&e);
    must(lk_edit_set(&e, "fuzz", "\"\n", NULL) == LK_OK, "set");
    must(lk_manifest_append(m, &e, NULL, &err) == LK_OK, "append");
    lk_edit_deinit(&e);
    lk_manifest_close(m);
    must(lk_manifest_open(env, "/", NULL, NULL, &m, &err) == LK_OK, "open again");
    lk_version *again = lk_manifest_version(m);
    must(again->number == v->number + 1 && again->tree_count == v->tree_count, "the same state");
    look_at(again);
    lk_version_unref(again);
    lk_version_unref(v);
    lk_manifest_close(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes > INPUT_BYTES_MAX) return -1;
    lk_sim *sim = lk_sim_new(1);
    must(sim != NULL, "memory");
    lk_env *env = lk_sim_env(sim);
    if (bytes > 0 && data[0] == '{') {
        size_t whole_bytes;
        uint8_t *whole = with_checksums(data, bytes, &whole_bytes);
        write_file(env, "/MANIFEST-000001", whole, whole_bytes);
        free(whole);
    } else {
        write_file(env, "/MANIFEST-000001", data, bytes);
    }
    static const char CURRENT[] = "MANIFEST-000001 ";
    char current[34], sum[16];
    lk_hex16_write(lk_hash_bytes(0, 0, CURRENT, 15), sum);
    (void)snprintf(current, sizeof current, "%s%.16s\n", CURRENT, sum);
    write_file(env, "/CURRENT", current, 33);
    go_on(env);
    lk_sim_free(sim);
    return 0;
}
