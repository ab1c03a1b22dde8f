/* manifest_file.h: manifests as files of checksummed lines: written, found, read, judged.
 *
 *   9c1f0e7a52b3d846 {"edit":12,...}      16 digits: XXH3 of the JSON, seeded with that of the line
 *                                         before, the first line with the number of the file
 *
 * Owns      a lk_manifest_out its file until the caller takes it; a lk_manifest_scan its buffer.
 * Callers   manifest.c, which knows what lines mean.
 * Threads   none of its own.
 * Errors    LK_CORRUPT for every line that is not as it was written, unless it is the last one and
 *           can have been torn by a loss of power.
 */
#ifndef LK_MANIFEST_FILE_H
#define LK_MANIFEST_FILE_H

#include "env.h"
#include "manifest_line.h"

enum {
    LK_MANIFEST_PATH_BYTES = 4096,
    LK_MANIFEST_NAME_BYTES = 40, /* MANIFEST- and up to 20 digits */
    LK_MANIFEST_HEAD_BYTES = 17, /* checksum and space */
};

void lk_manifest_name(uint64_t number, char out[LK_MANIFEST_NAME_BYTES]);
/* The number in a name that lk_manifest_name makes; false for every other name. */
bool lk_manifest_number(const char *name, uint64_t *out);
lk_status lk_manifest_path(const char *dir, const char *name, char out[LK_MANIFEST_PATH_BYTES],
                           lk_error *err);

/* ---- writing ---- */

/* A manifest while it is written. */
typedef struct lk_manifest_out {
    lk_file *file;
    uint64_t size;
    uint64_t chain;
} lk_manifest_out;

/* Writes one line: `line` has room for the head, then the JSON, then a newline. `chain` is the checksum
 * of the line before and becomes that of this one. */
lk_status lk_manifest_write_line(lk_file *file, uint64_t offset, uint64_t *chain, char *line,
                                 size_t len, lk_error *err);
/* A whole new manifest, durable with its name; the file is the caller's. */
lk_status lk_manifest_write_file(lk_env *env, const char *dir, size_t line_bytes, uint64_t number,
                                 const lk_version *version, const lk_properties *properties,
                                 const lk_manifest_state *state, lk_manifest_out *out,
                                 lk_error *err);
/* Makes CURRENT name a manifest that is durable; durable itself when it returns. */
lk_status lk_manifest_write_current(lk_env *env, const char *dir, uint64_t number, lk_error *err);

/* ---- reading ---- */

/* LK_NOT_FOUND where there is no CURRENT. */
lk_status lk_manifest_read_current(lk_env *env, const char *dir, uint64_t *out_number,
                                   lk_error *err);

/* A manifest in memory, read line by line. */
typedef struct lk_manifest_scan {
    uint8_t *data; /* with one byte more than `size` */
    size_t size;
    char path[LK_MANIFEST_PATH_BYTES];
    uint64_t from; /* where in the file `data` begins */
    size_t pos;
    uint64_t chain;
    size_t line_start;  /* of the last whole line */
    bool lacks_newline; /* it was the last of the file, and only its newline was torn off */
    bool is_torn;       /* from `pos` on stands part of a line */
} lk_manifest_scan;

/* Reads all of manifest `number` into memory. */
lk_status lk_manifest_scan_load(lk_manifest_scan *s, lk_file *file, uint64_t number, lk_error *err);
/* The same from the line that begins at `from` on, behind one with the checksum `chain`. */
lk_status lk_manifest_scan_load_from(lk_manifest_scan *s, lk_file *file, uint64_t from,
                                     uint64_t chain, lk_error *err);
void lk_manifest_scan_free(lk_manifest_scan *s);
/* The next whole line's JSON; *out_json is NULL at the end and before a torn line. */
lk_status lk_manifest_scan_next(lk_manifest_scan *s, uint8_t **out_json, size_t *out_len,
                                lk_error *err);

#endif
