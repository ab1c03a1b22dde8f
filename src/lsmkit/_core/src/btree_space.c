/* btree_space.c: the free pages of a B+tree's file; see btree_space.h. */
#include "btree_space.h"

#include <errno.h>
#include <stdlib.h>

#include "check.h"

static lk_status reserve(lk_page_runs *r, uint32_t more, lk_error *err)
{
    if (r->capacity - r->count >= more) return LK_OK;
    uint32_t want = r->capacity * 2 > r->count + more ? r->capacity * 2 : r->count + more + 16;
    lk_page_run *larger = realloc(r->runs, want * sizeof *larger);
    if (larger == NULL) return lk_fail_nomem(err, want * sizeof *larger);
    r->runs = larger;
    r->capacity = want;
    return LK_OK;
}

void lk_space_deinit(lk_space *s)
{
    free(s->now.runs);
    free(s->later.runs);
    memset(s, 0, sizeof *s);
}

static uint32_t run_take(lk_page_runs *r, uint32_t i, uint32_t count)
{
    lk_page_run *run = &r->runs[i];
    run->count -= count;
    r->pages -= count;
    uint32_t page = run->page + run->count;
    if (run->count == 0) {
        memmove(run, run + 1, (r->count - i - 1) * sizeof *run);
        r->count--;
    }
    return page;
}

lk_status lk_space_take(lk_space *s, uint32_t count, const char *path, uint32_t *out, lk_error *err)
{
    LK_ASSERT(count > 0);
    *out = 0;
    /* From the end: taking the last run away moves nothing. */
    for (uint32_t i = s->now.count; i > 0; i--) {
        if (s->now.runs[i - 1].count >= count) {
            *out = run_take(&s->now, i - 1, count);
            return LK_OK;
        }
    }
    if (count > LK_PAGES_MAX - s->pages) {
        return lk_fail(err, LK_IO, ENOSPC, path, 0, LK_PAGES_MAX, s->pages,
                       "%s: the tree has as many pages as a tree can have", path);
    }
    *out = s->pages;
    s->pages += count;
    return LK_OK;
}

void lk_space_give(lk_space *s, uint32_t page, uint32_t count, bool is_new)
{
    lk_page_runs *r = is_new ? &s->now : &s->later;
    LK_ASSERT(page > 0 && count > 0 && count <= s->pages - page);
    if (reserve(r, 1, NULL) != LK_OK) {
        s->is_lossy = true;
        return;
    }
    r->runs[r->count++] = (lk_page_run){page, count};
    r->pages += count;
}

static int compare_runs(const void *a, const void *b)
{
    const lk_page_run *x = a, *y = b;
    return (x->page > y->page) - (x->page < y->page);
}

lk_status lk_space_settle(lk_space *s, lk_error *err)
{
    lk_page_runs *r = &s->now;
    lk_status st = reserve(r, s->later.count, err);
    if (st != LK_OK) return st;
    if (s->later.count != 0) {
        memcpy(r->runs + r->count, s->later.runs, s->later.count * sizeof *r->runs);
    }
    r->count += s->later.count;
    r->pages += s->later.pages;
    s->later.count = 0;
    s->later.pages = 0;
    if (r->count == 0) return LK_OK;
    qsort(r->runs, r->count, sizeof *r->runs, compare_runs);
    uint32_t last = 0;
    for (uint32_t i = 1; i < r->count; i++) {
        lk_page_run *before = &r->runs[last];
        LK_ASSERT(before->page + before->count <= r->runs[i].page);
        if (before->page + before->count == r->runs[i].page) {
            before->count += r->runs[i].count;
        } else {
            r->runs[++last] = r->runs[i];
        }
    }
    r->count = last + 1;
    return LK_OK;
}

void lk_space_store(const lk_space *s, uint8_t *out)
{
    for (uint32_t i = 0; i < s->now.count; i++) {
        lk_store32(out + LK_PAGE_RUN_BYTES * i, s->now.runs[i].page);
        lk_store32(out + LK_PAGE_RUN_BYTES * i + 4, s->now.runs[i].count);
    }
}

lk_status lk_space_load(lk_space *s, const uint8_t *bytes, uint32_t count, const char *path,
                        lk_error *err)
{
    lk_status st = reserve(&s->now, count, err);
    if (st != LK_OK) return st;
    uint64_t from = 1;
    for (uint32_t i = 0; i < count; i++) {
        lk_page_run run = {lk_load32(bytes + LK_PAGE_RUN_BYTES * i),
                           lk_load32(bytes + LK_PAGE_RUN_BYTES * i + 4)};
        if (run.page < from || run.count == 0 || (uint64_t)run.page + run.count > s->pages) {
            return lk_fail_corrupt(err, path, 0, from, run.page,
                                   "%s: the list of free pages cannot be", path);
        }
        from = (uint64_t)run.page + run.count;
        s->now.runs[i] = run;
        s->now.pages += run.count;
    }
    s->now.count = count;
    return LK_OK;
}
