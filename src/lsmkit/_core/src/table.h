/* table.h: an SSTable: what a flush or a compaction wrote once and nobody changes.
 *
 * Owns      lk_table owns its open file, index and filter, and the cache slots of its blocks; when
 *           its last reference goes and it was declared obsolete, the file is unlinked.
 *           Sources: table_write.c, table_read.c, table_parts.c, table_format.c, table_verify.c,
 *           table_dump.c. Of large values a row has a reference to a file of values (blob.h); a
 *           writer makes one beside its table, of the same number.
 * Callers   flush.c and compact.c write; view.c, cursor.c and compact.c read.
 * Threads   an lk_table is shared; it opens its file at first use, once. An lk_table_writer
 *           belongs to one thread.
 * Always    rows in order of (key, sequence descending); all versions of a key stand in one block,
 *           hence in one table.
 * Errors    LK_IO, LK_CORRUPT, LK_NOMEM, LK_CANCELLED.
 */
#ifndef LK_TABLE_H
#define LK_TABLE_H

#include <stdatomic.h>

#include "blob.h"
#include "block.h"
#include "bytes.h"
#include "cache.h"
#include "codec.h"
#include "env.h"
#include "limiter.h"
#include "row.h"
#include "status.h"

/* What the manifest says of a table. Keys are owned by the struct (malloc), see lk_table_meta_*. */
typedef struct lk_table_meta {
    uint64_t file;  /* file number: NNNNNN.sst */
    uint64_t nonce; /* random; seeds every checksum of the file, stands in its footer */
    uint64_t bytes; /* file size */
    uint64_t rows;
    uint64_t tombstones;                 /* rows that are deletes */
    uint64_t operands;                   /* rows that are operands of a merge */
    uint64_t deadlines;                  /* rows with a deadline */
    uint64_t deadline_min, deadline_max; /* of those, microseconds since 1970; 0: there are none */
    uint64_t raw_bytes;                  /* keys and values before prefixes and compression */
    uint64_t seq_min, seq_max;
    /* Not in the file; microseconds since 1970, 0: not known. No row was written after `written`;
     * none that has a deadline up to `made` can go by being merged again. */
    uint64_t written, made;
    uint64_t swept; /* no row is hidden by a range tombstone up to this sequence: those that were
                       were left out when the table was written. Not in the file; 0: not known */
    uint32_t tree;
    uint32_t min_len, max_len;
    uint8_t *min_key, *max_key;
    lk_blob_use *blobs; /* files of values that its rows refer to, by number; owned */
    uint32_t blob_count;
} lk_table_meta;

lk_status lk_table_meta_copy(const lk_table_meta *from, lk_table_meta *out, lk_error *err);
void lk_table_meta_deinit(lk_table_meta *meta);
/* The use of that file, or NULL. */
const lk_blob_use *lk_table_meta_blob(const lk_table_meta *meta, uint64_t file);
/* Bytes of the table, and of the file of values that was written with it. */
uint64_t lk_table_meta_written(const lk_table_meta *meta);
/* Deletes the files of a table that is published nowhere: its own, and that of values written with it. */
void lk_table_unlink(lk_env *env, const char *dir, const lk_table_meta *meta);

/* ---- reading ---- */

typedef struct lk_table lk_table;

/* An unopened table with one reference. `dir` is the store's directory. `cache` may be NULL: then
 * no block is kept, and lk_table_find answers LK_FIND_MISS. */
lk_status lk_table_new(lk_env *env, const char *dir, const lk_table_meta *meta, lk_cache *cache,
                       lk_table **out, lk_error *err);
void lk_table_ref(lk_table *t);
void lk_table_unref(lk_table *t); /* NULL is accepted */
void lk_table_set_obsolete(lk_table *t);
void lk_table_keep(lk_table *t); /* not obsolete after all: somebody else reads it */
const lk_table_meta *lk_table_meta_of(const lk_table *t);

/* Opens the file and reads footer, properties, index and filter, if that was not done. Blocks. */
lk_status lk_table_load(lk_table *t, lk_error *err);
bool lk_table_is_loaded(const lk_table *t);
size_t lk_table_memory(const lk_table *t); /* bytes of index, filter and slots; 0 before loading */

typedef enum lk_find {
    LK_FIND_ABSENT, /* not in this table */
    LK_FIND_ROW,    /* found; see the hit */
    /* Unknown: the table is not loaded, or the block is not in memory. Whoever then gets the block
     * looks into it himself (lk_block_find): it need not have found room in the cache. */
    LK_FIND_MISS,
} lk_find;

typedef struct lk_hit {
    lk_bytes value;
    uint64_t seq;
    lk_kind kind;
    uint32_t block_index; /* of LK_FIND_MISS: the block to load, UINT32_MAX: the table itself */
} lk_hit;

/* The newest version of a key with sequence <= seq. Never blocks: to be called inside a guard
 * section, and the hit is good until that ends. */
lk_find lk_table_find(lk_table *t, const uint8_t *key, size_t key_len, uint64_t hash, uint64_t seq,
                      lk_hit *out);
/* The same for `n` keys, in stages over all of them, so that their waits for memory overlap: half
 * the time a key. Only where results[i] is LK_FIND_ABSENT on entry is key i looked for; what was
 * answered before stands, so that tables are asked one after another, newest first. */
void lk_table_find_many(lk_table *t, size_t n, const lk_bytes *keys, const uint64_t *hashes,
                        uint64_t seq, lk_find *results, lk_hit *hits);

/* May block (reads and decodes); must be called outside guard sections. The block has a reference
 * for the caller. `fill` false: the block is not put into the cache (compaction, one pass). */
lk_status lk_table_block(lk_table *t, uint32_t index, bool fill, lk_block **out, lk_error *err);

/* For a loaded table: */
uint32_t lk_table_block_count(const lk_table *t);
/* First block whose last key is not less than `key`; block_count when there is none. */
uint32_t lk_table_seek(const lk_table *t, const uint8_t *key, size_t key_len);
lk_bytes lk_table_block_last_key(const lk_table *t, uint32_t index);
/* Place of a block in the file. */
void lk_table_block_place(const lk_table *t, uint32_t index, uint64_t *out_offset,
                          uint32_t *out_bytes);

/* Reads every byte of the file and checks each checksum, the order of keys, the filter (no false
 * negative), the properties and `meta`. Counts what it read. Stops at the first fault. */
typedef struct lk_table_report {
    uint64_t blocks, rows, bytes;
} lk_table_report;
lk_status lk_table_verify(lk_table *t, lk_table_report *out, lk_error *err);

/* ---- writing ---- */

typedef struct lk_table_options {
    uint32_t block_bytes;       /* rows of a block before compression */
    uint32_t filter_bits;       /* bits a key, 0: no filter */
    lk_codec codec;             /* of values */
    uint32_t blob_bytes;        /* longer values stand apart; 0: none does */
    const lk_blob_files *blobs; /* that rows refer to already; NULL: none do */
    lk_limiter *limiter;        /* NULL: none; waits before each write */
    const atomic_bool *cancel;  /* NULL: never; looked at before each write */
    _Atomic uint64_t *held;     /* NULL: nobody asks; the memory of writers, added up */
} lk_table_options;

typedef struct lk_table_writer lk_table_writer;

/* Creates `dir`/NNNNNN.sst, in the place of what a crash may have left under that name. `tree` and
 * `file` go into the properties. `dir` is borrowed. */
lk_status lk_table_writer_new(lk_env *env, const char *dir, uint64_t file, uint32_t tree,
                              const lk_table_options *options, lk_table_writer **out,
                              lk_error *err);
/* All versions of one key may have no more than LK_BLOCK_RAW_MAX bytes: LK_INVALID. After any error
 * the writer can only be freed. */
lk_status lk_table_writer_add(lk_table_writer *w, const lk_row *rows, size_t count, lk_error *err);
/* Copies a block of a loaded table as it stands on disk, checked, with a new checksum; its keys
 * are hashed for the filter. The rows must follow all rows added, and be plain puts and deletes: else
 * LK_INVALID. */
lk_status lk_table_writer_add_block(lk_table_writer *w, lk_table *from, uint32_t index,
                                    lk_error *err);
/* Rows that were added with sequence 0 get this one, all of them: to be called before the table is
 * finished. It stands in the properties, so that a table can be written before its place in the commit
 * order is known. */
void lk_table_writer_set_seq(lk_table_writer *w, uint64_t seq);
/* Writes all but the end of the file and syncs it; nothing can be added any more, and finishing takes
 * little time. Gives back descriptor and memory until then. */
lk_status lk_table_writer_seal(lk_table_writer *w, lk_error *err);
bool lk_table_writer_is_sealed(const lk_table_writer *w);
uint64_t lk_table_writer_bytes(const lk_table_writer *w); /* estimate of the files so far */
uint64_t lk_table_writer_rows(const lk_table_writer *w);
/* Writes what is left, syncs the file (not its directory) and closes it. `out` is the caller's.
 * A table without rows is LK_INVALID. The writer is still to be freed. */
lk_status lk_table_writer_finish(lk_table_writer *w, lk_table_meta *out, lk_error *err);
/* The same, but the disk has only begun to get the file: the caller syncs and closes it. Of many small
 * files, written first and synced then, the file system commits several at once. */
lk_status lk_table_writer_hand_over(lk_table_writer *w, lk_table_meta *out, lk_file **out_file,
                                    lk_error *err);
/* Unfinished: closes and unlinks the file. NULL is accepted. */
void lk_table_writer_free(lk_table_writer *w);

void lk_table_path(const char *dir, uint64_t file, char *out, size_t out_bytes);

/* Readable text of a table (footer, properties, index; with `rows` every row) to `print`. */
lk_status lk_table_dump(lk_table *t, bool rows, void (*print)(void *context, const char *line),
                        void *context, lk_error *err);

/* What a table file says of itself; `out` is the caller's. */
lk_status lk_table_meta_read(lk_env *env, const char *path, lk_table_meta *out, lk_error *err);

/* The dump of a file that bears its own number as its name. */
lk_status lk_table_dump_file(lk_env *env, const char *path, bool rows,
                             void (*print)(void *context, const char *line), void *context,
                             lk_error *err);

#endif
