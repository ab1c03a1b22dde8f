/* blob.h: large values apart: files of values, to which rows of tables refer.
 *
 * A table writer puts values that are longer than its option says into a file beside the table, and a
 * reference in their place. Compaction copies references, so such a value is written once. The file lives
 * as long as a table of the version refers to it; its tables say how much of it is still referred to.
 *
 * Owns      lk_blob_file its open file; when its last reference goes and it was declared obsolete, the
 *           file is unlinked. lk_blob_files owns a reference to each of its files.
 * Callers   table_write.c and compact_merge.c write; fold.c and view.c read; version_blobs.c makes the
 *           lists.
 * Threads   a writer belongs to one; files and lists are shared, and immutable but for the first opening.
 *           Reading blocks: never inside a guard section.
 * Errors    LK_IO, LK_CORRUPT, LK_UNSUPPORTED, LK_NOMEM, LK_CANCELLED.
 *
 * File, little-endian (FORMAT-blob.md is the authority):
 *   0       8         12      16     24      32         40
 *   +-------+---------+-------+------+-------+----------+---------+---------+--
 *   | magic | version | codec | file | nonce | checksum | record  | record  | ...
 *   +-------+---------+-------+------+-------+----------+---------+---------+--
 * Record:
 *   0          8                16         24       28    32           32+stored
 *   +----------+----------------+----------+--------+-----+------------+-------+
 *   | checksum | value checksum | key hash | stored | raw | the value  | pad 8 |
 *   +----------+----------------+----------+--------+-----+------------+-------+
 * Reference:   file 8, offset 8, checksum 8, stored 4, raw 4
 */
#ifndef LK_BLOB_H
#define LK_BLOB_H

#include <stdatomic.h>

#include "bytes.h"
#include "codec.h"
#include "env.h"
#include "limiter.h"
#include "row.h"
#include "status.h"

enum {
    LK_BLOB_HEADER_BYTES = 40,
    LK_BLOB_RECORD_BYTES = 32, /* of a record, before its value */
    LK_BLOB_VERSION = 1,
    LK_BLOB_USE_BYTES = 32, /* as it stands in the properties of a table */
};

/* What a row says of its value; see LK_BLOB_REF_BYTES in row.h. */
typedef struct lk_blob_ref {
    uint64_t file, offset;
    uint64_t checksum; /* of the record's head, which holds that of the value */
    uint32_t stored;   /* bytes in the file; fewer than `raw`: compressed */
    uint32_t raw;
} lk_blob_ref;

void lk_blob_ref_encode(const lk_blob_ref *ref, uint8_t out[LK_BLOB_REF_BYTES]);
lk_blob_ref lk_blob_ref_decode(const uint8_t bytes[LK_BLOB_REF_BYTES]);
/* Bytes of the file that the record takes. */
static inline uint64_t lk_blob_ref_bytes(const lk_blob_ref *ref)
{
    return LK_BLOB_RECORD_BYTES + lk_align_up(ref->stored, 8);
}

/* How a table uses a file of values. */
typedef struct lk_blob_use {
    uint64_t file;
    uint64_t size;        /* of the file */
    uint64_t rows, bytes; /* of the records that the table refers to */
} lk_blob_use;

void lk_blob_use_encode(const lk_blob_use *use, uint8_t out[LK_BLOB_USE_BYTES]);
lk_blob_use lk_blob_use_decode(const uint8_t bytes[LK_BLOB_USE_BYTES]);

/* The row of a reference gets the value that was read for it, which must outlive the row. Its deadline
 * goes before the value, over bytes of the record's head that stand there. */
void lk_blob_row_take(lk_row *row, lk_bytes value);

/* `dir`/NNNNNN.blob: has the number of the table that it was written with. */
void lk_blob_path(const char *dir, uint64_t file, char *out, size_t out_bytes);

/* ---- writing ---- */

typedef struct lk_blob_writer lk_blob_writer;

lk_status lk_blob_writer_new(lk_env *env, const char *dir, uint64_t file, lk_codec codec,
                             lk_limiter *limiter, const atomic_bool *cancel, lk_blob_writer **out,
                             lk_error *err);
/* After any error the writer can only be freed. */
lk_status lk_blob_writer_add(lk_blob_writer *w, uint64_t key_hash, lk_bytes value, lk_blob_ref *out,
                             lk_error *err);
size_t lk_blob_writer_memory(const lk_blob_writer *w);
uint64_t lk_blob_writer_bytes(const lk_blob_writer *w); /* of the file so far */
/* Writes what is left, syncs the file (not its directory) and closes it. */
lk_status lk_blob_writer_finish(lk_blob_writer *w, lk_error *err);
/* The file goes, unless `keep`. NULL is accepted. */
void lk_blob_writer_free(lk_blob_writer *w, bool keep);

/* ---- reading ---- */

typedef struct lk_blob_file lk_blob_file;

/* Not opened yet; one reference. `size` 0: whatever it has. */
lk_status lk_blob_file_new(lk_env *env, const char *dir, uint64_t file, uint64_t size,
                           lk_blob_file **out, lk_error *err);
void lk_blob_file_ref(lk_blob_file *f);
void lk_blob_file_unref(lk_blob_file *f); /* NULL is accepted */
void lk_blob_file_set_obsolete(lk_blob_file *f);
void lk_blob_file_keep(lk_blob_file *f); /* takes that back */
uint64_t lk_blob_file_number(const lk_blob_file *f);
uint64_t lk_blob_file_size(const lk_blob_file *f);
/* Opens it, if it was not. */
lk_status lk_blob_file_load(lk_blob_file *f, lk_error *err);
/* The memory that reading the record takes; LK_CORRUPT: it cannot stand there. */
lk_status lk_blob_file_room(lk_blob_file *f, const lk_blob_ref *ref, size_t *out, lk_error *err);
/* The value of a record, proved, in so much room. */
lk_status lk_blob_file_read(lk_blob_file *f, const lk_blob_ref *ref, uint8_t *room, lk_bytes *out,
                            lk_error *err);
/* Whether the record stands there and is of a key with this hash; its value is not read. */
lk_status lk_blob_file_check(lk_blob_file *f, const lk_blob_ref *ref, uint64_t key_hash,
                             lk_error *err);
/* Reads the whole file, which is opened anew, and proves every record. */
lk_status lk_blob_file_verify(lk_blob_file *f, uint64_t *out_records, uint64_t *out_bytes,
                              lk_error *err);
/* Readable text of a file: its header, and where each value stands. Checks what it reads. */
lk_status lk_blob_dump(lk_env *env, const char *path,
                       void (*print)(void *context, const char *line), void *context,
                       lk_error *err);
/* Whether what stands in the file proves that lsmkit wrote it. LK_CORRUPT, LK_UNSUPPORTED: it does not. */
lk_status lk_blob_header_check(lk_env *env, const char *path, lk_error *err);

/* ---- the files that the tables of a tree use ---- */

typedef struct lk_blob_item {
    lk_blob_file *file;
    uint64_t rows, bytes; /* that tables refer to. A row may be counted twice while its table leaves
                             one range after the other */
} lk_blob_item;

typedef struct lk_blob_files {
    uint32_t count;
    lk_blob_item items[]; /* by number */
} lk_blob_files;

lk_blob_files *lk_blob_files_new(uint32_t count); /* NULL: no memory. Items are zeroed */
void lk_blob_files_free(lk_blob_files *f);        /* NULL is accepted, here and below */
const lk_blob_item *lk_blob_files_find(const lk_blob_files *f, uint64_t file);
/* Whether more than this share of the file's records is referred to by nobody. */
bool lk_blob_item_is_wasteful(const lk_blob_item *item, double max_garbage);
/* The memory that reading takes, when the reference is one that can be right: LK_CORRUPT where it is not,
 * or its file not in the list. */
lk_status lk_blob_files_room(const lk_blob_files *f, const lk_blob_ref *ref, size_t *out,
                             lk_error *err);
/* The value that such a reference stands for, in so much room, as lk_blob_file_read. */
lk_status lk_blob_files_read(const lk_blob_files *f, const lk_blob_ref *ref, uint8_t *room,
                             lk_bytes *out, lk_error *err);

#endif
