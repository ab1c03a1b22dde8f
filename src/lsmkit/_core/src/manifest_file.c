/* manifest_file.c: the bytes of MANIFEST-NNNNNN and CURRENT: see manifest_file.h.
 *
 * Always    a line is written in one call, and nothing behind it before it is synced, so that only
 *           the last line can be torn.
 */
#include "manifest_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "hash.h"

enum {
    CURRENT_BYTES = 64, /* name, space, 16 digits, newline */
    TEAR_BYTES = 64,    /* the least that a device writes whole */
};

/* ---- names ---- */

void lk_manifest_name(uint64_t number, char out[LK_MANIFEST_NAME_BYTES])
{
    (void)snprintf(out, LK_MANIFEST_NAME_BYTES, "MANIFEST-%06" PRIu64, number);
}

bool lk_manifest_number(const char *name, uint64_t *out)
{
    char again[LK_MANIFEST_NAME_BYTES];
    *out = 0;
    if (strncmp(name, "MANIFEST-", 9) != 0) return false;
    uint64_t number = 0;
    for (const char *p = name + 9; *p != 0; p++) {
        if (*p < '0' || *p > '9' || number > LK_FILE_MAX / 10) return false;
        number = number * 10 + (uint64_t)(*p - '0');
    }
    lk_manifest_name(number, again);
    *out = number;
    return number > 0 && number < LK_FILE_MAX && strcmp(name, again) == 0;
}

lk_status lk_manifest_path(const char *dir, const char *name, char out[LK_MANIFEST_PATH_BYTES],
                           lk_error *err)
{
    int n = snprintf(out, LK_MANIFEST_PATH_BYTES, "%s/%s", dir, name);
    if (n >= 0 && n < LK_MANIFEST_PATH_BYTES) return LK_OK;
    return lk_fail(err, LK_INVALID, 0, dir, 0, LK_MANIFEST_PATH_BYTES, strlen(dir),
                   "the path is too long");
}

/* ---- writing ---- */

lk_status lk_manifest_write_line(lk_file *file, uint64_t offset, uint64_t *chain, char *line,
                                 size_t len, lk_error *err)
{
    LK_ASSERT(len > LK_MANIFEST_HEAD_BYTES + 1 && line[len - 1] == '\n');
    uint64_t sum = XXH3_64bits_withSeed(line + LK_MANIFEST_HEAD_BYTES,
                                        len - LK_MANIFEST_HEAD_BYTES - 1, *chain);
    lk_hex16_write(sum, line);
    line[LK_MANIFEST_HEAD_BYTES - 1] = ' ';
    lk_status st = lk_file_write(file, offset, line, len, err);
    if (st == LK_OK) *chain = sum;
    return st;
}

static lk_status emit_base_line(void *context, const char *json, size_t len, lk_error *err)
{
    lk_manifest_out *f = context;
    char *line = malloc(LK_MANIFEST_HEAD_BYTES + len + 1);
    if (line == NULL) return lk_fail_nomem(err, LK_MANIFEST_HEAD_BYTES + len + 1);
    memcpy(line + LK_MANIFEST_HEAD_BYTES, json, len);
    line[LK_MANIFEST_HEAD_BYTES + len] = '\n';
    lk_status st = lk_manifest_write_line(f->file, f->size, &f->chain, line,
                                          LK_MANIFEST_HEAD_BYTES + len + 1, err);
    f->size += LK_MANIFEST_HEAD_BYTES + len + 1;
    free(line);
    return st;
}

/* An empty file that was not there before: pages of one whose sync failed are not written again. */
static lk_status open_fresh(lk_env *env, const char *path, lk_file **out, lk_error *err)
{
    lk_status st = LK_OK;
    int flags = LK_OPEN_WRITE | LK_OPEN_CREATE | LK_OPEN_EXCLUSIVE;
    st = lk_env_open(env, path, flags, out, err);
    if (st != LK_EXISTS) return st;
    LK_TRY(lk_env_unlink(env, path, err));
    LK_TRY(lk_env_open(env, path, flags, out, err));
done:
    return st;
}

lk_status lk_manifest_write_file(lk_env *env, const char *dir, size_t line_bytes, uint64_t number,
                                 const lk_version *version, const lk_properties *properties,
                                 const lk_manifest_state *state, lk_manifest_out *out,
                                 lk_error *err)
{
    lk_status st = LK_OK;
    char name[LK_MANIFEST_NAME_BYTES], path[LK_MANIFEST_PATH_BYTES];
    *out = (lk_manifest_out){.chain = number};
    lk_manifest_name(number, name);
    LK_TRY(lk_manifest_path(dir, name, path, err));
    LK_TRY(open_fresh(env, path, &out->file, err));
    LK_TRY(lk_manifest_line_base(version, properties, state, number, line_bytes, emit_base_line,
                                 out, err));
    LK_TRY(lk_file_sync(out->file, err));
    LK_TRY(lk_env_sync_dir(env, dir, err));
done:
    if (st != LK_OK) {
        lk_file_close(out->file);
        out->file = NULL;
    }
    return st;
}

static size_t current_text(uint64_t number, char out[CURRENT_BYTES])
{
    char name[LK_MANIFEST_NAME_BYTES], sum[17] = {0};
    lk_manifest_name(number, name);
    lk_hex16_write(lk_hash_bytes(0, 0, name, strlen(name)), sum);
    return (size_t)snprintf(out, CURRENT_BYTES, "%s %s\n", name, sum);
}

lk_status lk_manifest_write_current(lk_env *env, const char *dir, uint64_t number, lk_error *err)
{
    lk_status st = LK_OK;
    lk_file *file = NULL;
    char from[LK_MANIFEST_PATH_BYTES], to[LK_MANIFEST_PATH_BYTES], text[CURRENT_BYTES];
    LK_TRY(lk_manifest_path(dir, "CURRENT.tmp", from, err));
    LK_TRY(lk_manifest_path(dir, "CURRENT", to, err));
    size_t len = current_text(number, text);
    LK_TRY(open_fresh(env, from, &file, err));
    LK_TRY(lk_file_write(file, 0, text, len, err));
    LK_TRY(lk_file_sync(file, err));
    lk_file_close(file);
    file = NULL;
    LK_TRY(lk_env_rename(env, from, to, err));
    LK_TRY(lk_env_sync_dir(env, dir, err));
done:
    lk_file_close(file);
    return st;
}

/* ---- reading ---- */

lk_status lk_manifest_read_current(lk_env *env, const char *dir, uint64_t *out_number,
                                   lk_error *err)
{
    lk_status st = LK_OK;
    lk_file *file = NULL;
    char path[LK_MANIFEST_PATH_BYTES], text[2 * CURRENT_BYTES], again[CURRENT_BYTES];
    size_t n;
    *out_number = 0;
    LK_TRY(lk_manifest_path(dir, "CURRENT", path, err));
    LK_TRY(lk_env_open(env, path, LK_OPEN_READ, &file, err));
    LK_TRY(lk_file_read(file, 0, text, sizeof text - 1, &n, err));
    text[n] = 0;
    const char *space = memchr(text, ' ', n);
    if (space != NULL) text[space - text] = 0;
    if (space == NULL || !lk_manifest_number(text, out_number)) {
        st = lk_fail_corrupt(err, path, 0, 0, 0, "CURRENT does not name a manifest");
        goto done;
    }
    text[space - text] = ' ';
    if (current_text(*out_number, again) != n || memcmp(text, again, n) != 0) {
        st = lk_fail_corrupt(err, path, 0, 0, 0, "CURRENT does not have its checksum");
    }
done:
    lk_file_close(file);
    return st;
}

void lk_manifest_scan_free(lk_manifest_scan *s)
{
    free(s->data);
    s->data = NULL;
}

lk_status lk_manifest_scan_load(lk_manifest_scan *s, lk_file *file, uint64_t number, lk_error *err)
{
    return lk_manifest_scan_load_from(s, file, 0, number, err);
}

lk_status lk_manifest_scan_load_from(lk_manifest_scan *s, lk_file *file, uint64_t from,
                                     uint64_t chain, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t end;
    (void)snprintf(s->path, sizeof s->path, "%s", lk_file_path(file));
    s->chain = chain;
    s->from = from;
    LK_TRY(lk_file_size(file, &end, err));
    uint64_t bytes = end < from ? 0 : end - from;
    s->data = bytes >= SIZE_MAX ? NULL : malloc((size_t)bytes + 1);
    if (s->data == NULL) return lk_fail_nomem(err, bytes);
    LK_TRY(lk_file_read(file, from, s->data, (size_t)bytes, &s->size, err));
done:
    return st;
}

/* Whether some piece that a device writes at once holds nothing but zeros, which no line has: it
 * was never written. A single damaged bit cannot look like this. */
static bool has_unwritten_piece(const lk_manifest_scan *s, size_t from, size_t to)
{
    while (from < to) {
        size_t end = from - from % TEAR_BYTES + TEAR_BYTES, i = from;
        if (end > to) end = to;
        while (i < end && s->data[i] == 0) i++;
        if (i == end) return true;
        from = end;
    }
    return false;
}

/* Whether another line begins behind the one at `start`: only at its head does a line have a space
 * and a brace and a quote (quotes in strings are escaped). Nothing is written behind a torn line. */
static bool has_another_head(const lk_manifest_scan *s, size_t start)
{
    size_t from = start + LK_MANIFEST_HEAD_BYTES;
    return from < s->size && memmem(s->data + from, s->size - from, " {\"", 3) != NULL;
}

static bool has_checksum(const lk_manifest_scan *s, size_t start, size_t end,
                         uint64_t *out_expected, uint64_t *out_found)
{
    *out_expected = *out_found = 0;
    if (end < start + LK_MANIFEST_HEAD_BYTES) return false;
    *out_expected = XXH3_64bits_withSeed(s->data + start + LK_MANIFEST_HEAD_BYTES,
                                         end - start - LK_MANIFEST_HEAD_BYTES, s->chain);
    return lk_hex16_read(s->data + start, out_found) &&
           s->data[start + LK_MANIFEST_HEAD_BYTES - 1] == ' ' && *out_found == *out_expected;
}

lk_status lk_manifest_scan_next(lk_manifest_scan *s, uint8_t **out_json, size_t *out_len,
                                lk_error *err)
{
    uint64_t expected, found, short_expected, short_found;
    size_t start = s->pos;
    *out_json = NULL;
    *out_len = 0;
    if (start == s->size) return LK_OK;
    const uint8_t *newline = memchr(s->data + start, '\n', s->size - start);
    size_t end = newline == NULL ? s->size : (size_t)(newline - s->data);
    if (has_checksum(s, start, end, &expected, &found)) {
        s->chain = found;
        s->line_start = start;
        s->lacks_newline = newline == NULL;
        s->pos = newline == NULL ? end : end + 1;
        *out_json = s->data + start + LK_MANIFEST_HEAD_BYTES;
        *out_len = end - start - LK_MANIFEST_HEAD_BYTES;
        return LK_OK;
    }
    bool is_last = (newline == NULL || end + 1 == s->size) && !has_another_head(s, start);
    bool is_short =
        newline == NULL && !has_checksum(s, start, s->size - 1, &short_expected, &short_found);
    if (is_last && (is_short || has_unwritten_piece(s, start, s->size))) {
        s->is_torn = true;
        return LK_OK;
    }
    return lk_fail_corrupt(err, s->path, s->from + start, expected, found,
                           "a manifest line has the checksum %016" PRIx64 ", not %016" PRIx64,
                           found, expected);
}
