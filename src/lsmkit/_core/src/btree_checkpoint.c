/* btree_checkpoint.c: from one whole tree on the disk to the next.
 *
 *   1  pages that are new, extents, the list of free pages: where they belong, which no checkpoint
 *      refers to; the file is synced
 *   2  the changed pages and the new head: into the journal, which is synced. From here on the new
 *      tree is the one that will be found
 *   3  the same where they belong; synced
 *   4  the log begins anew
 *
 * A crash before the end of 2 finds the old tree and the old log, after it the journal; that a page
 * is torn in 3 does no harm, because the journal has it.
 *
 * Journal:   0        208          4096                              pages from a page boundary on
 *            +--------+------------+------------------------------+---------------------------+
 *            | header | zeros      | numbers of pages, 4 each, pad | pages, sealed             |
 *            +--------+------------+------------------------------+---------------------------+
 */
#include <stdlib.h>

#include "btree.h"
#include "check.h"
#include "hash.h"

#define MAGIC UINT32_C(0x6A62736C) /* "lsbj" */
#define SEED UINT64_C(0x62746A726E6C5F31)
#define BUFFER_BYTES (256u << 10)
enum { AT_HEAD = 24, AT_HASH = AT_HEAD + LK_BTREE_HEAD_BYTES, HEADER_BYTES = AT_HASH + 8 };
#define PAGES_AT(count) (4096 + lk_align_up((uint64_t)(count)*4, 4096))

/* Pages on their way to a file: those that follow one another go in one write. */
typedef struct batch {
    lk_file *file;
    uint8_t *bytes;
    uint64_t offset;
    uint32_t used;
} batch;

static lk_status batch_end(batch *b, lk_error *err)
{
    if (b->used == 0) return LK_OK;
    lk_status st = lk_file_write(b->file, b->offset, b->bytes, b->used, err);
    b->offset += b->used;
    b->used = 0;
    return st;
}

static lk_status batch_add(batch *b, uint64_t offset, const uint8_t *p, uint32_t n, lk_error *err)
{
    if (b->used != 0 && (b->offset + b->used != offset || b->used + n > BUFFER_BYTES)) {
        lk_status st = batch_end(b, err);
        if (st != LK_OK) return st;
    }
    if (b->used == 0) b->offset = offset;
    memcpy(b->bytes + b->used, p, n);
    b->used += n;
    return LK_OK;
}

/* A changed page; its frame stays where it is until it is clean. */
typedef struct changed {
    uint32_t page;
    uint8_t *p;
} changed;

typedef struct job {
    lk_btree *t;
    lk_btree_head head; /* the next one */
    changed *pages;     /* sorted; those that are new first */
    uint32_t new_count, count;
    batch out;
} job;

static int compare_pages(const void *a, const void *b)
{
    const changed *x = a, *y = b;
    return (x->page > y->page) - (x->page < y->page);
}

static lk_status job_init(job *j, lk_btree *t, lk_error *err)
{
    *j = (job){.t = t, .head = t->head};
    uint32_t n = t->cache.dirty_count, news = 0, olds = 0;
    j->pages = malloc(((size_t)n + 1) * sizeof *j->pages);
    j->out.bytes = malloc(BUFFER_BYTES);
    if (j->pages == NULL || j->out.bytes == NULL) return lk_fail_nomem(err, BUFFER_BYTES);
    pthread_rwlock_rdlock(&t->latch);
    for (uint32_t i = 0; i < t->cache.frame_count; i++) {
        const lk_frame_info *info = &t->cache.frames[i];
        if (!info->dirty) continue;
        changed c = {info->page, lk_page_cache_memory(&t->cache, i)};
        if (info->is_new) {
            j->pages[news++] = c;
        } else {
            j->pages[n - ++olds] = c;
        }
    }
    pthread_rwlock_unlock(&t->latch);
    LK_ASSERT(news + olds == n);
    qsort(j->pages, news, sizeof *j->pages, compare_pages);
    qsort(j->pages + news, olds, sizeof *j->pages, compare_pages);
    j->new_count = news;
    j->count = n;
    return LK_OK;
}

static void job_deinit(job *j)
{
    free(j->pages);
    free(j->out.bytes);
}

static lk_status pages_write(job *j, uint32_t from, uint32_t to, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t bytes = j->t->file.page_bytes;
    j->out.file = j->t->file.file;
    for (uint32_t i = from; i < to; i++) {
        LK_TRY(batch_add(&j->out, (uint64_t)j->pages[i].page * bytes, j->pages[i].p, bytes, err));
    }
    LK_TRY(batch_end(&j->out, err));
    j->t->counters.page_writes += to - from;
    j->t->counters.home_bytes += (uint64_t)(to - from) * bytes;
done:
    return st;
}

/* Makes what was freed free, and writes the list of that to pages of its own, which were free before. */
static lk_status space_write(job *j, lk_error *err)
{
    lk_status st = LK_OK;
    lk_btree *t = j->t;
    lk_space *s = &t->space;
    uint8_t *bytes = NULL;
    lk_ref ref = {0, 0};
    uint64_t most = ((uint64_t)s->now.count + s->later.count + 1) * LK_PAGE_RUN_BYTES;
    lk_btree_head *h = &j->head;
    h->free_page = h->free_count = h->free_pages = 0;
    if (s->now.count + s->later.count == 0 && t->head.free_page == 0) goto done;
    h->free_pages = lk_extent_pages(&t->file, most);
    pthread_rwlock_wrlock(&t->latch); /* readers look at how many pages there are */
    st = lk_space_take(s, h->free_pages, lk_file_path(t->file.file), &h->free_page, err);
    pthread_rwlock_unlock(&t->latch);
    if (st != LK_OK) goto done;
    if (t->head.free_page != 0) lk_space_give(s, t->head.free_page, t->head.free_pages, false);
    LK_TRY(lk_space_settle(s, err));
    size_t n = (size_t)s->now.count * LK_PAGE_RUN_BYTES;
    LK_ASSERT(n <= most);
    bytes = malloc(n + 1);
    if (bytes == NULL) {
        st = lk_fail_nomem(err, n);
        goto done;
    }
    lk_space_store(s, bytes);
    LK_TRY(lk_extent_write(&t->file, h->free_page, bytes, n, &ref, err));
    h->free_count = s->now.count;
    t->counters.home_bytes += n;
    t->file_is_dirty = true;
done:
    h->free_hash = ref.hash;
    free(bytes);
    return st;
}

static lk_status journal_write(job *j, lk_error *err)
{
    lk_status st = LK_OK;
    lk_btree *t = j->t;
    uint32_t bytes = t->file.page_bytes, n = j->count - j->new_count;
    uint64_t at = PAGES_AT(n);
    size_t list = (size_t)(at - 4096);
    uint8_t *numbers = calloc(1, list + 4096);
    if (numbers == NULL) return lk_fail_nomem(err, list);
    j->out.file = t->journal;
    for (uint32_t i = 0; i < n; i++) {
        const changed *c = &j->pages[j->new_count + i];
        lk_store32(numbers + 4096 + 4 * (size_t)i, c->page);
        LK_TRY(batch_add(&j->out, at + (uint64_t)i * bytes, c->p, bytes, err));
    }
    LK_TRY(batch_end(&j->out, err));
    lk_store32(numbers, MAGIC);
    lk_store32(numbers + 4, LK_BTREE_VERSION);
    lk_store32(numbers + 8, n);
    lk_store64(numbers + 16, lk_hash_bytes(SEED, 4096, numbers + 4096, list));
    lk_btree_head_write(&j->head, numbers + AT_HEAD);
    lk_store64(numbers + AT_HASH, lk_hash_bytes(SEED, 0, numbers, AT_HASH));
    LK_TRY(lk_file_write(t->journal, 0, numbers, list + 4096, err));
    LK_TRY(lk_file_datasync(t->journal, err));
    t->counters.journal_bytes += at + (uint64_t)n * bytes;
done:
    free(numbers);
    return st;
}

static lk_status head_write(lk_btree *t, const lk_btree_head *head, lk_error *err)
{
    uint8_t bytes[LK_BTREE_HEAD_BYTES];
    lk_btree_head_write(head, bytes);
    return lk_file_write(t->file.file, 0, bytes, sizeof bytes, err);
}

/* Steps 1 to 3. */
static lk_status job_run(job *j, lk_error *err)
{
    lk_status st = LK_OK;
    lk_btree *t = j->t;
    LK_TRY(space_write(j, err));
    j->head.pages = t->space.pages;
    for (uint32_t i = 0; i < j->count; i++) {
        lk_page_seal(&t->file, j->pages[i].page, j->head.checkpoint, j->pages[i].p);
    }
    LK_TRY(pages_write(j, 0, j->new_count, err));
    if (j->new_count != 0 || t->file_is_dirty) LK_TRY(lk_file_datasync(t->file.file, err));
    LK_TRY(journal_write(j, err));
    LK_TRY(pages_write(j, j->new_count, j->count, err));
    LK_TRY(head_write(t, &j->head, err));
    LK_TRY(lk_file_datasync(t->file.file, err));
    t->file_is_dirty = false;
done:
    return st;
}

/* The pages are clean, and may leave memory. */
static void job_publish(job *j)
{
    lk_btree *t = j->t;
    pthread_rwlock_wrlock(&t->latch);
    t->head = j->head;
    t->home_writes++;
    for (uint32_t i = 0; i < j->count; i++) {
        lk_frame_info *info =
            &t->cache.frames[lk_page_cache_frame(&t->cache, j->pages[i].page) - 1];
        info->dirty = info->is_new = false;
    }
    t->cache.dirty_count = 0;
    pthread_rwlock_unlock(&t->latch);
}

static uint32_t log_capacity(const lk_btree *t, uint64_t body_bytes)
{
    uint64_t need = LK_SEGMENT_HEADER_BYTES + lk_frame_bytes(body_bytes);
    return need > t->options.log_bytes ? (uint32_t)lk_align_up(need, 4096) : t->options.log_bytes;
}

lk_status lk_btree_checkpoint(lk_btree *t, bool keeps_log, uint64_t body_bytes, lk_error *err)
{
    lk_status st = LK_OK;
    job j;
    uint64_t started = lk_env_now_ns(t->env);
    LK_TRY(job_init(&j, t, err));
    j.head.checkpoint++;
    if (!keeps_log) j.head.log++;
    LK_TRY(job_run(&j, err));
    job_publish(&j);
    if (!keeps_log) LK_TRY(lk_redo_restart(&t->log, t->head.log, log_capacity(t, body_bytes), err));
    t->counters.checkpoints++;
    t->counters.checkpoint_ns += lk_env_now_ns(t->env) - started;
done:
    job_deinit(&j);
    return st;
}

/* ---- after a crash ---- */

typedef struct journal {
    uint8_t *start; /* header and numbers */
    uint32_t count;
    lk_btree_head head;
} journal;

/* Reads header and numbers; `*out_is_whole` false where they are not what was written: then the
 * journal was not finished, and the tree in the file is the one of before. */
static lk_status journal_read(lk_btree *t, journal *out, bool *out_is_whole, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t size, at;
    uint8_t header[HEADER_BYTES];
    size_t got;
    memset(out, 0, sizeof *out);
    *out_is_whole = false;
    LK_TRY(lk_file_size(t->journal, &size, err));
    LK_TRY(lk_file_read(t->journal, 0, header, sizeof header, &got, err));
    if (got < sizeof header || lk_load32(header) != MAGIC ||
        lk_load64(header + AT_HASH) != lk_hash_bytes(SEED, 0, header, AT_HASH)) {
        goto done;
    }
    if (lk_load32(header + 4) != LK_BTREE_VERSION) goto done;
    if (lk_btree_head_parse(header + AT_HEAD, lk_file_path(t->journal), &out->head, NULL) !=
        LK_OK) {
        goto done;
    }
    out->count = lk_load32(header + 8);
    at = PAGES_AT(out->count);
    if (at + (uint64_t)out->count * out->head.page_bytes > size) goto done;
    out->start = malloc(at);
    if (out->start == NULL) {
        st = lk_fail_nomem(err, at);
        goto done;
    }
    LK_TRY(lk_file_read_exact(t->journal, 0, out->start, at, err));
    uint64_t hash = lk_hash_bytes(SEED, 4096, out->start + 4096, (size_t)(at - 4096));
    *out_is_whole = hash == lk_load64(out->start + 16);
done:
    return st;
}

/* Each page, read and proved; written to the file where `writes`. */
static lk_status journal_pages(lk_btree *t, const journal *j, bool writes, bool *out_is_whole,
                               lk_error *err)
{
    lk_status st = LK_OK;
    lk_btree_file file = {t->file.file, j->head.nonce, j->head.page_bytes};
    uint64_t at = PAGES_AT(j->count);
    uint8_t *p = malloc(file.page_bytes);
    if (p == NULL) return lk_fail_nomem(err, file.page_bytes);
    *out_is_whole = false;
    for (uint32_t i = 0; i < j->count; i++) {
        uint32_t page = lk_load32(j->start + 4096 + 4 * (size_t)i);
        uint64_t from = at + (uint64_t)i * file.page_bytes;
        LK_TRY(lk_file_read_exact(t->journal, from, p, file.page_bytes, err));
        /* Of this very checkpoint: an older image may stand where the last journal had the page. */
        if (page == 0 || page >= j->head.pages ||
            lk_page_stamp(p) != (uint32_t)j->head.checkpoint ||
            lk_page_prove(&file, page, j->head.checkpoint, p, NULL) != LK_OK) {
            goto done;
        }
        if (writes) {
            uint64_t to = (uint64_t)page * file.page_bytes;
            LK_TRY(lk_file_write(t->file.file, to, p, file.page_bytes, err));
        }
    }
    *out_is_whole = true;
done:
    free(p);
    return st;
}

lk_status lk_btree_journal_apply(lk_btree *t, const lk_btree_head *head, bool *out_done,
                                 lk_error *err)
{
    lk_status st = LK_OK;
    journal j;
    bool is_whole;
    *out_done = false;
    LK_TRY(journal_read(t, &j, &is_whole, err));
    if (!is_whole) goto done;
    if (head != NULL && (head->nonce != j.head.nonce || head->checkpoint > j.head.checkpoint)) {
        goto done; /* of another tree, or of a checkpoint that is over */
    }
    LK_TRY(journal_pages(t, &j, false, &is_whole, err));
    if (!is_whole) goto done;
    LK_TRY(journal_pages(t, &j, true, &is_whole, err));
    LK_TRY(head_write(t, &j.head, err));
    LK_TRY(lk_file_sync(t->file.file, err));
    *out_done = true;
done:
    free(j.start);
    return st;
}
