/* btree_file.h: the file of a B+tree's pages: its head, single pages, and extents.
 *
 * Page 0 is the head. A page carries its checksum and the number of the checkpoint that wrote it; an
 * extent, which holds one long key, one long value or the list of free pages, is a row of whole pages
 * without headers, whose hash stands where it is referred to.
 *
 * Owns      the open file.
 * Callers   btree.c, btree_checkpoint.c, btree_read.c and btree_edit.c.
 * Threads   any: reads and writes of different pages do not touch each other.
 * Errors    LK_CORRUPT for what is not what was written; LK_IO.
 */
#ifndef LK_BTREE_FILE_H
#define LK_BTREE_FILE_H

#include "btree_page.h"
#include "env.h"
#include "status.h"

#define LK_BTREE_HEAD_BYTES 128u
#define LK_BTREE_VERSION 1u

/* The tree as of one checkpoint. */
typedef struct lk_btree_head {
    uint64_t nonce;      /* of the tree: seeds all checksums */
    uint64_t checkpoint; /* how many there were */
    uint64_t log;        /* generation of the log that goes on from here */
    uint64_t rows;
    uint64_t free_hash;
    uint32_t page_bytes;
    uint32_t pages;      /* that the file has, the head included */
    uint32_t root;       /* 0: the tree is empty */
    uint32_t levels;     /* of the root, leaves being 0 */
    uint32_t free_page;  /* extent of the runs of free pages; 0: there are none */
    uint32_t free_pages; /* that it has */
    uint32_t free_count; /* runs in it */
} lk_btree_head;

typedef struct lk_btree_file {
    lk_file *file;
    uint64_t nonce;
    uint32_t page_bytes;
} lk_btree_file;

void lk_btree_head_write(const lk_btree_head *h, uint8_t *out); /* LK_BTREE_HEAD_BYTES */
lk_status lk_btree_head_parse(const uint8_t *bytes, const char *path, lk_btree_head *out,
                              lk_error *err);

/* Sets stamp and checksum of a page that is about to be written. */
void lk_page_seal(const lk_btree_file *f, uint32_t page, uint64_t checkpoint, uint8_t *p);
/* Whether `p` is what lk_page_seal left, of a checkpoint that is not later; all of it is checked. */
lk_status lk_page_prove(const lk_btree_file *f, uint32_t page, uint64_t checkpoint,
                        const uint8_t *p, lk_error *err);
lk_status lk_page_read(const lk_btree_file *f, uint32_t page, uint64_t checkpoint, uint8_t *out,
                       lk_error *err);

static inline uint32_t lk_extent_pages(const lk_btree_file *f, uint64_t bytes)
{
    return (uint32_t)((bytes + f->page_bytes - 1) / f->page_bytes);
}
/* Writes `bytes` bytes to the pages from `page` on, and gives what refers to them. */
lk_status lk_extent_write(const lk_btree_file *f, uint32_t page, const uint8_t *data, size_t bytes,
                          lk_ref *out, lk_error *err);
lk_status lk_extent_read(const lk_btree_file *f, lk_ref ref, uint8_t *out, size_t bytes,
                         lk_error *err);

/* Compares a whole key with that of a long cell, which is read for it. */
lk_status lk_cell_compare(const lk_btree_file *f, lk_bytes key, const lk_cell *cell, int *out,
                          lk_error *err);
/* The whole key of a cell; `out` has room for cell->key_len bytes. */
lk_status lk_cell_key(const lk_btree_file *f, const lk_cell *cell, uint8_t *out, lk_error *err);
/* lk_page_search with ties decided. */
lk_status lk_page_find(const lk_btree_file *f, const uint8_t *p, lk_bytes key, uint32_t *out_slot,
                       bool *out_found, lk_error *err);

#endif
