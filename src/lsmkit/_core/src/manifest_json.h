/* manifest_json.h: the JSON that manifests are written in, written and read without a tree.
 *
 * Exactly objects, arrays, unsigned 64-bit integers, strings (UTF-8, all escapes), true and false,
 * with no white space between tokens: a subset that every JSON tool reads. Byte strings are written
 * as lower-case hexadecimal strings.
 *
 * Owns      a writer owns its buffer; a reader borrows its text and decodes strings in place, so a
 *           text is read once.
 * Callers   manifest_line.c.
 * Always    the first fault stays: after it every read gives zeros or false, and the caller asks
 *           once, at the end. Nesting is at most LK_JSON_DEPTH_MAX. Nothing is allocated by reading.
 */
#ifndef LK_MANIFEST_JSON_H
#define LK_MANIFEST_JSON_H

#include "bytes.h"
#include "status.h"

#define LK_JSON_DEPTH_MAX 16u

/* Whether these bytes are UTF-8 (shortest forms only, no surrogates). */
bool lk_json_is_utf8(const uint8_t *data, size_t len);

/* ---- writing ---- */

typedef struct lk_json_writer {
    char *data; /* not terminated */
    size_t len;
    size_t capacity;
    size_t bytes_max; /* longer is LK_INVALID */
    bool comma;       /* the next value or name begins with one */
    lk_status failed; /* LK_OK, LK_NOMEM or LK_INVALID (too long) */
} lk_json_writer;

void lk_json_writer_init(lk_json_writer *w, size_t bytes_max);
void lk_json_writer_deinit(lk_json_writer *w);
void lk_json_writer_clear(lk_json_writer *w); /* empty again, with its memory; the fault goes too */
/* What went wrong since the beginning, if anything. */
lk_status lk_json_writer_status(const lk_json_writer *w, lk_error *err);

void lk_json_write_raw(lk_json_writer *w, const void *data, size_t len); /* as it is; no commas */
void lk_json_open(lk_json_writer *w, char bracket);                      /* '{' or '[' */
void lk_json_close(lk_json_writer *w, char bracket);                     /* '}' or ']' */
void lk_json_name(lk_json_writer *w, const char *name); /* of plain letters: needs no escapes */
void lk_json_write_u64(lk_json_writer *w, uint64_t value);
void lk_json_write_bool(lk_json_writer *w, bool value);
void lk_json_write_string(lk_json_writer *w, const char *text); /* valid UTF-8 */
void lk_json_name_string(lk_json_writer *w, const char *text);  /* a name that may need escapes */
void lk_json_write_hex(lk_json_writer *w, const uint8_t *data, size_t len);
/* name and value together, the usual case */
void lk_json_field(lk_json_writer *w, const char *name, uint64_t value);
void lk_json_field_hex(lk_json_writer *w, const char *name, const uint8_t *data, size_t len);

/* 16 lower-case digits. */
void lk_hex16_write(uint64_t value, char out[16]);
bool lk_hex16_read(const uint8_t in[16], uint64_t *out); /* false: not 16 lower-case digits */

/* ---- reading ---- */

typedef struct lk_json_reader {
    uint8_t *text;
    size_t len;
    size_t pos;
    uint32_t depth;
    uint32_t fresh;    /* bit d: nothing was read yet of the object or array at depth d */
    const char *fault; /* NULL, or what is wrong at `fault_pos` */
    size_t fault_pos;
} lk_json_reader;

void lk_json_reader_init(lk_json_reader *r, void *text, size_t len);
/* Sets the fault, unless there is one. Returns false, always. */
bool lk_json_fault(lk_json_reader *r, const char *what);
/* Nothing may be left. True when the whole text was read without a fault. */
bool lk_json_end(lk_json_reader *r);

bool lk_json_enter(lk_json_reader *r, char bracket); /* '{' or '[' */
/* The next member's name; its value is to be read (or skipped) before the next call. False at the
 * end of the object, which is left, and after a fault. */
bool lk_json_member(lk_json_reader *r, lk_bytes *out_name);
/* The same of arrays: true when there is another value. */
bool lk_json_element(lk_json_reader *r);
bool lk_json_read_u64(lk_json_reader *r, uint64_t *out);
bool lk_json_read_u32(lk_json_reader *r, uint32_t max, uint32_t *out); /* a larger one is a fault */
bool lk_json_read_bool(lk_json_reader *r, bool *out);
/* Points into the text; a zero byte stands behind it. It may hold zero bytes itself. */
bool lk_json_read_string(lk_json_reader *r, lk_bytes *out);
bool lk_json_read_hex(lk_json_reader *r, lk_bytes *out);
bool lk_json_skip(lk_json_reader *r); /* any value */

/* A name that stands twice in one object is a fault: which one would hold? `bit` is the name's. */
bool lk_json_first_time(lk_json_reader *r, uint32_t *seen, uint32_t bit);

static inline bool lk_json_is(lk_bytes name, const char *word)
{
    size_t n = strlen(word);
    return name.len == n && memcmp(name.data, word, n) == 0;
}

#endif
