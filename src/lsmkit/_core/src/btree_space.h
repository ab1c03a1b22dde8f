/* btree_space.h: which pages of a B+tree's file are free.
 *
 * A page that the last checkpoint refers to may not be written before the next one is safe, or a
 * crash would find it changed. So what is freed waits in `later`, and lk_space_settle, which a
 * checkpoint calls, makes it free; a page that no checkpoint has seen is free at once.
 *
 * Owns      the two lists.
 * Callers   btree_edit.c takes and gives; btree_checkpoint.c settles and stores.
 * Threads   guarded by the tree's write lock.
 * Always    after lk_space_settle runs are sorted, apart from each other, and below `pages`.
 */
#ifndef LK_BTREE_SPACE_H
#define LK_BTREE_SPACE_H

#include "bytes.h"
#include "status.h"

#define LK_PAGES_MAX UINT32_MAX
#define LK_PAGE_RUN_BYTES 8u /* in a file: first page, count */

typedef struct lk_page_run {
    uint32_t page, count;
} lk_page_run;

typedef struct lk_page_runs {
    lk_page_run *runs;
    uint32_t count, capacity;
    uint64_t pages; /* in all of them */
} lk_page_runs;

typedef struct lk_space {
    lk_page_runs now;   /* may be taken */
    lk_page_runs later; /* may be taken after the next checkpoint */
    uint32_t pages;     /* that the file has */
    bool is_lossy;      /* a run could not be noted for want of memory: its pages are lost */
} lk_space;

void lk_space_deinit(lk_space *s);
/* `count` pages in a row; LK_IO with ENOSPC when the file would have too many. */
lk_status lk_space_take(lk_space *s, uint32_t count, const char *path, uint32_t *out,
                        lk_error *err);
/* Gives pages back; `is_new`: no checkpoint refers to them. Cannot fail. */
void lk_space_give(lk_space *s, uint32_t page, uint32_t count, bool is_new);
lk_status lk_space_settle(lk_space *s, lk_error *err);

/* The runs as they stand in the file: LK_PAGE_RUN_BYTES each. */
void lk_space_store(const lk_space *s, uint8_t *out);
lk_status lk_space_load(lk_space *s, const uint8_t *bytes, uint32_t count, const char *path,
                        lk_error *err);

#endif
