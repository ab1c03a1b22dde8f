/* order_build.c: makes the sorted order of a segment longer, and searches in it.
 *
 * Callers   cursor.c when a scan begins, flush.c for a frozen segment.
 * Threads   whoever finds the order too short makes it longer under the segment's order_lock; orders
 *           already given out do not change.
 * Errors    LK_NOMEM; the segment keeps the order that it had.
 */
#include "order.h"

#include <stdlib.h>

#include "check.h"
#include "order_sort.h"

enum { STREAK_MIN = 8 };

/* ---- runs ---- */

static lk_status run_sort(const lk_segment *s, uint32_t from, uint32_t count, uint32_t least,
                          lk_order_run **out, lk_error *err)
{
    lk_status st = LK_OK;
    size_t scratch_bytes = lk_order_sort_scratch_bytes(count);
    void *scratch = NULL;
    *out = NULL;
    LK_TRY(lk_order_alloc(s->env, scratch_bytes, &scratch, err));
    LK_TRY(lk_order_run_new(s->env, count, out, err));
    (*out)->count = lk_order_sort(s, from, count, least, (*out)->items, scratch);
    (*out)->end = from + count;
    (*out)->applied = least;
done:
    lk_order_free(s->env, scratch, scratch_bytes);
    return st;
}

/* How many items of a run, of which the first one does, come before `rival`: by steps that double. */
static size_t count_before(const lk_segment *s, const lk_order_item *items, size_t count,
                           const lk_order_item *rival)
{
    size_t low = 1, high = count, step = 1;
    while (low + step < count) {
        if (lk_order_compare(s, &items[low + step - 1], rival) > 0) {
            high = low + step - 1;
            break;
        }
        low += step;
        step *= 2;
    }
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (lk_order_compare(s, &items[middle], rival) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* All records of `newer` are younger than those of `older`. Where one run wins several times in a row
 * the length of its lead is searched for and copied at once: keys that grow, as in a queue, are merged
 * in a few pieces. */
static lk_status run_merge(const lk_segment *s, const lk_order_run *older,
                           const lk_order_run *newer, lk_order_run **out, lk_error *err)
{
    uint32_t count = older->count + newer->count;
    const lk_order_item *a = older->items, *a_end = a + older->count;
    const lk_order_item *b = newer->items, *b_end = b + newer->count;
    lk_status st = lk_order_run_new(s->env, count, out, err);
    if (st != LK_OK) return st;
    lk_order_item *to = (*out)->items;
    uint32_t streak = 0;
    bool won = false;
    while (a < a_end && b < b_end) {
        bool from_newer = lk_order_compare(s, b, a) < 0;
        streak = from_newer == won ? streak + 1 : 0;
        won = from_newer;
        if (LK_UNLIKELY(streak >= STREAK_MIN)) {
            const lk_order_item **lead = from_newer ? &b : &a;
            size_t left = (size_t)((from_newer ? b_end : a_end) - *lead);
            size_t n = count_before(s, *lead, left, from_newer ? a : b);
            memcpy(to, *lead, n * sizeof *to);
            to += n;
            *lead += n;
            streak = 0;
            continue;
        }
        *to++ = from_newer ? *b : *a;
        b += from_newer;
        a += !from_newer;
    }
    memcpy(to, a, (size_t)(a_end - a) * sizeof *a);
    to += a_end - a;
    memcpy(to, b, (size_t)(b_end - b) * sizeof *b);
    (*out)->end = newer->end;
    (*out)->applied = older->applied < newer->applied ? older->applied : newer->applied;
    return LK_OK;
}

/* Leaves out what the range tombstones among the first `least` records hide, if that was not done. */
static void run_sift(const lk_segment *s, lk_order_run *run, uint32_t least)
{
    uint32_t last = lk_segment_tombs_last(s, least), kept = 0;
    if (run->applied >= last) return;
    for (uint32_t i = 0; i < run->count; i++) {
        lk_order_item item = run->items[i];
        if (item.ordinal < last) {
            lk_record r = lk_segment_record(s, item.ordinal);
            if (lk_order_is_hidden(s, &r, item.ordinal, least)) continue;
        }
        run->items[kept++] = item;
    }
    run->count = kept;
    run->applied = last;
}

/* ---- orders ---- */

/* Merges the last runs for as long as they are too large to stand beside the one before them, or
 * all of them for `single`. */
static lk_status order_settle(const lk_segment *s, lk_order *o, uint32_t least, bool single,
                              lk_error *err)
{
    while (o->run_count >= 2) {
        lk_order_run *older = o->runs[o->run_count - 2];
        lk_order_run *newer = o->runs[o->run_count - 1];
        if (!single && newer->count <= older->count / 2) break;
        lk_order_run *merged;
        lk_status st = run_merge(s, older, newer, &merged, err);
        if (st != LK_OK) return st;
        run_sift(s, merged, least);
        lk_order_run_unref(older);
        lk_order_run_unref(newer);
        o->run_count--;
        o->runs[o->run_count - 1] = merged;
    }
    return LK_OK;
}

/* Makes `o` cover the first `upto` ordinals, for those who see at least `least`. */
static lk_status order_extend(const lk_segment *s, lk_order *o, uint32_t upto, uint32_t least,
                              bool single, lk_error *err)
{
    if (upto > o->covered) {
        lk_order_run *run;
        lk_status st = run_sort(s, o->covered, upto - o->covered, least, &run, err);
        if (st != LK_OK) return st;
        LK_ASSERT(o->run_count < LK_ORDER_RUNS_MAX);
        if (run->count > 0) {
            o->runs[o->run_count++] = run;
        } else {
            lk_order_run_unref(run);
        }
        o->covered = upto;
    }
    uint32_t last = lk_segment_tombs_last(s, least);
    if (last > o->floor) o->floor = last;
    return order_settle(s, o, least, single, err);
}

static size_t order_memory(const lk_order *o)
{
    size_t bytes = 0;
    for (uint32_t i = 0; o != NULL && i < o->run_count; i++) {
        bytes += sizeof(lk_order_run) + (size_t)o->runs[i]->capacity * sizeof(lk_order_item);
    }
    return bytes;
}

/* Replaces `*slot`, made longer from `have`; order_lock is held. */
static lk_status slot_extend(lk_segment *s, lk_order **slot, const lk_order *have, uint32_t upto,
                             uint32_t least, bool single, lk_error *err)
{
    lk_order *fresh = lk_order_copy(have);
    if (fresh == NULL) return lk_fail_nomem(err, sizeof *fresh);
    lk_status st = order_extend(s, fresh, upto, least, single, err);
    if (st != LK_OK) {
        lk_order_unref(fresh);
        return st;
    }
    lk_order_unref(*slot);
    *slot = fresh;
    /* Runs that both orders have count twice; they do so only until they grow. */
    atomic_store_explicit(&s->order_bytes, order_memory(s->order) + order_memory(s->live),
                          memory_order_relaxed);
    return LK_OK;
}

lk_status lk_segment_order(lk_segment *s, uint32_t visible, bool single, lk_order **out,
                           lk_error *err)
{
    lk_status st = LK_OK;
    *out = NULL;
    lk_lock_acquire(&s->order_lock);
    lk_order *have = s->order;
    if (have == NULL || have->covered < visible || (single && have->run_count > 1)) {
        /* Whatever has been published by now is sorted too: the next scan will ask for it. */
        uint32_t upto = atomic_load_explicit(&s->published, memory_order_acquire);
        LK_ASSERT(visible <= upto);
        LK_TRY(slot_extend(s, &s->order, have, upto, 0, single, err));
    }
    lk_order_ref(s->order);
    *out = s->order;
done:
    lk_lock_release(&s->order_lock);
    return st;
}

lk_status lk_segment_order_live(lk_segment *s, uint32_t visible, uint32_t least, bool single,
                                lk_order **out, lk_error *err)
{
    lk_status st = LK_OK;
    *out = NULL;
    LK_ASSERT(least <= visible);
    if (lk_segment_tombs_last(s, least) == 0) return lk_segment_order(s, visible, single, out, err);
    lk_lock_acquire(&s->order_lock);
    lk_order *have = s->live;
    bool too_young = have != NULL && have->floor > least;
    if (!too_young &&
        (have == NULL || have->covered < visible || (single && have->run_count > 1))) {
        /* What was sorted before the first range tombstone came need not be sorted again. */
        if (have == NULL && s->order != NULL && s->order->covered <= s->tombs.first)
            have = s->order;
        uint32_t upto = have != NULL && have->covered > visible ? have->covered : visible;
        LK_TRY(slot_extend(s, &s->live, have, upto, least, single, err));
    }
    if (!too_young) {
        lk_order_ref(s->live);
        *out = s->live;
    }
done:
    lk_lock_release(&s->order_lock);
    if (st == LK_OK && too_young) return lk_segment_order(s, visible, single, out, err);
    return st;
}

/* ---- search ---- */

uint32_t lk_order_seek(const lk_segment *s, const lk_order_run *run, uint32_t tree,
                       const uint8_t *key, size_t key_len)
{
    uint64_t prefix = lk_key_prefix(key, key_len);
    uint32_t low = 0, high = run->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const lk_order_item *item = &run->items[middle];
        bool before = item->tree < tree || (item->tree == tree && item->prefix < prefix);
        if (item->tree == tree && item->prefix == prefix) {
            lk_record r = lk_segment_record(s, item->ordinal);
            before = lk_key_compare(r.key, r.key_len, key, key_len) < 0;
        }
        if (before) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}
