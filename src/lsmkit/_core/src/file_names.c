/* file_names.c: see file_names.h. A name is ours when making it anew from its number gives it back. */
#include "file_names.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hash.h"
#include "manifest_file.h"
#include "segment.h"
#include "table.h"

static bool gives_back(const char *path, const char *name)
{
    return strcmp(strrchr(path, '/') + 1, name) == 0;
}

lk_file_kind lk_file_kind_of(const char *name, uint64_t *out_number)
{
    char path[LK_PATH_MAX];
    uint64_t number = 0;
    lk_file_kind kind = LK_FILE_OTHER;
    if (strcmp(name, "CURRENT") == 0) {
        kind = LK_FILE_CURRENT;
    } else if (strcmp(name, "CURRENT.tmp") == 0) {
        kind = LK_FILE_CURRENT_NEXT;
    } else if (strcmp(name, "LOCK") == 0) {
        kind = LK_FILE_LOCK;
    } else if (strcmp(name, "PULSE") == 0) {
        kind = LK_FILE_PULSE;
    } else if (lk_manifest_number(name, &number)) {
        kind = LK_FILE_MANIFEST;
    } else if (*name >= '0' && *name <= '9') {
        number = strtoull(name, NULL, 10);
        lk_table_path("", number, path, sizeof path);
        if (gives_back(path, name)) kind = LK_FILE_TABLE;
        lk_blob_path("", number, path, sizeof path);
        if (gives_back(path, name)) kind = LK_FILE_BLOB;
        lk_segment_path("", number, path, sizeof path);
        if (gives_back(path, name)) kind = LK_FILE_LOG;
        if (number >= LK_FILE_MAX) kind = LK_FILE_OTHER;
    }
    if (out_number != NULL) *out_number = number;
    return kind;
}

static lk_status is_log(lk_file *file, bool *out, lk_error *err)
{
    uint8_t bytes[LK_SEGMENT_HEADER_BYTES];
    lk_segment_header header;
    size_t n;
    lk_status st = lk_file_read(file, 0, bytes, sizeof bytes, &n, err);
    *out = st == LK_OK && n == sizeof bytes &&
           lk_segment_header_parse(bytes, lk_file_path(file), &header, NULL) == LK_OK;
    return st;
}

static lk_status is_manifest(lk_file *file, uint64_t number, bool *out, lk_error *err)
{
    lk_manifest_scan scan = {.data = NULL};
    uint8_t *json = NULL;
    size_t len;
    lk_status st = lk_manifest_scan_load(&scan, file, number, err);
    if (st == LK_OK) {
        *out = lk_manifest_scan_next(&scan, &json, &len, NULL) == LK_OK && json != NULL;
    }
    lk_manifest_scan_free(&scan);
    return st;
}

lk_status lk_file_is_ours(lk_env *env, const char *dir, const char *name, bool *out, lk_error *err)
{
    lk_status st = LK_OK;
    char path[LK_PATH_MAX];
    uint64_t number;
    lk_file *file = NULL;
    lk_table_meta meta = {0};
    lk_file_kind kind = lk_file_kind_of(name, &number);
    *out = false;
    LK_TRY(lk_path_join(dir, name, path, err));
    if (kind == LK_FILE_CURRENT) {
        st = lk_manifest_read_current(env, dir, &number, err);
    } else if (kind == LK_FILE_TABLE) {
        st = lk_table_meta_read(env, path, &meta, err);
    } else if (kind == LK_FILE_BLOB) {
        st = lk_blob_header_check(env, path, err);
    } else if (kind == LK_FILE_LOG || kind == LK_FILE_MANIFEST) {
        LK_TRY(lk_env_open(env, path, LK_OPEN_READ, &file, err));
        st = kind == LK_FILE_LOG ? is_log(file, out, err) : is_manifest(file, number, out, err);
        goto done;
    } else {
        goto done;
    }
    *out = st == LK_OK;
    if (st == LK_CORRUPT || st == LK_UNSUPPORTED) st = LK_OK;
done:
    lk_file_close(file);
    lk_table_meta_deinit(&meta);
    return st;
}

lk_status lk_path_join(const char *dir, const char *name, char out[LK_PATH_MAX], lk_error *err)
{
    int n = snprintf(out, LK_PATH_MAX, "%s/%s", dir, name);
    if (n >= 0 && n < LK_PATH_MAX) return LK_OK;
    return lk_fail(err, LK_INVALID, 0, NULL, 0, LK_PATH_MAX - 1, (uint64_t)n,
                   "the path of a file would be longer than %d bytes", LK_PATH_MAX - 1);
}

void lk_path_parent(const char *path, char out[LK_PATH_MAX])
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    while (n > 0 && path[n - 1] != '/') n--;
    while (n > 1 && path[n - 1] == '/') n--;
    (void)snprintf(out, LK_PATH_MAX, "%.*s", n > 0 ? (int)n : 1, n > 0 ? path : ".");
}

lk_status lk_dir_lock(lk_env *env, const char *dir, lk_lock_file **out, lk_error *err)
{
    char path[LK_PATH_MAX];
    lk_status st = lk_path_join(dir, "LOCK", path, err);
    if (st == LK_OK) st = lk_env_lock(env, path, out, err);
    if (st != LK_LOCKED) return st;
    uint64_t pid = err != NULL ? err->found : 0, since = err != NULL ? err->offset : 0;
    return lk_fail(err, LK_LOCKED, 0, dir, since, 0, pid, "the store is open already");
}
