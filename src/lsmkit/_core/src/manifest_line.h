/* manifest_line.h: edits and whole states as JSON lines, and back. FORMAT-manifest.md has the format.
 *
 * Owns      an lk_manifest_line its edit and lists; keys of its ranges point into the text.
 * Callers   manifest.c, which adds checksums and puts lines into files.
 * Threads   none of its own.
 * Errors    reading: LK_CORRUPT with path, offset and what is wrong; LK_UNSUPPORTED for a format of
 *           another version. Members that are not known are passed over.
 */
#ifndef LK_MANIFEST_LINE_H
#define LK_MANIFEST_LINE_H

#include "manifest_json.h"
#include "properties.h"
#include "version.h"

#define LK_MANIFEST_FORMAT 1u

/* What an edit changes beside tables and properties; in a base, what holds by then. */
typedef struct lk_manifest_state {
    uint64_t number; /* of the last edit */
    uint64_t next_file;
    uint64_t last_seq;
    uint64_t log_retired;
    uint64_t durable_generation, durable_end;
    bool clean;
} lk_manifest_state;

/* ---- writing ---- */

/* Appends the edit's object, `next` being the state after it. */
void lk_manifest_line_edit(lk_json_writer *w, const lk_edit *edit, const lk_manifest_state *next);

/* Called with one object at a time. */
typedef lk_status lk_manifest_emit(void *context, const char *json, size_t len, lk_error *err);

/* The whole state as objects of about `line_bytes` each, of which the last says "complete". */
lk_status lk_manifest_line_base(const lk_version *version, const lk_properties *properties,
                                const lk_manifest_state *state, uint64_t manifest,
                                size_t line_bytes, lk_manifest_emit *emit, void *context,
                                lk_error *err);

/* ---- reading ---- */

/* Tables that stand in a range: files[first .. first + count) of the line. */
typedef struct lk_manifest_range {
    uint32_t tree;
    lk_bytes lower;
    size_t first, count;
} lk_manifest_range;

enum {
    LK_LINE_FORMAT = 1,   /* the first of a manifest */
    LK_LINE_EDIT = 2,     /* has the number of an edit */
    LK_LINE_CHANGE = 4,   /* something that only edits have */
    LK_LINE_BASE = 8,     /* tables or ranges */
    LK_LINE_COMPLETE = 16 /* the last of a base */
};

typedef struct lk_manifest_line {
    uint32_t kinds;          /* LK_LINE_ bits */
    uint64_t manifest;       /* number of the file, of a first line */
    lk_manifest_state state; /* number and next_file; the others stand in the edit */
    lk_edit edit;            /* its adds are tables to be defined, in a base */
    lk_manifest_range *ranges;
    size_t range_count, range_capacity;
    uint64_t *files;
    size_t file_count, file_capacity;
} lk_manifest_line;

void lk_manifest_line_init(lk_manifest_line *line);
void lk_manifest_line_deinit(lk_manifest_line *line);

/* Reads the object at `text`, which is changed; `path` and `offset` are those of its first byte. */
lk_status lk_manifest_line_read(void *text, size_t len, const char *path, uint64_t offset,
                                lk_manifest_line *out, lk_error *err);

#endif
