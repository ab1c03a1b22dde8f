/* tombs.c: making skylines by merging two at a time, and searching in them. See tombs.h.
 *
 * Errors    LK_NOMEM.
 */
#include "tombs.h"

#include <stdlib.h>

#include "check.h"

/* ---- references ---- */

void lk_tombs_ref(lk_tombs *t) { atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed); }

void lk_tombs_unref(lk_tombs *t)
{
    if (t == NULL) return;
    uint32_t before = atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel);
    LK_ASSERT(before > 0);
    if (before == 1) free(t);
}

/* ---- writing ---- */

static lk_status grow(void **array, uint32_t count, uint32_t *capacity, uint32_t more, size_t size,
                      lk_error *err)
{
    if (more <= *capacity - count) return LK_OK;
    size_t want = (size_t)count + more, larger = (size_t)*capacity * 2;
    if (larger < want) larger = want;
    if (larger < 8) larger = 8;
    void *p = larger > UINT32_MAX ? NULL : realloc(*array, larger * size);
    if (p == NULL) return lk_fail_nomem(err, larger * size);
    *array = p;
    *capacity = (uint32_t)larger;
    return LK_OK;
}

static bool same_seqs(const uint64_t *a, uint32_t a_count, const uint64_t *b, uint32_t b_count)
{
    return a_count == b_count && (a_count == 0 || memcmp(a, b, a_count * sizeof *a) == 0);
}

lk_status lk_tombs_writer_step(lk_tombs_writer *w, uint32_t tree, lk_bytes key,
                               const uint64_t *seqs, uint32_t count, lk_error *err)
{
    uint32_t last = w->step_count == 0 ? 0 : w->steps[w->step_count - 1].first;
    if (same_seqs(w->seqs + last, w->seq_count - last, seqs, count)) return LK_OK;
    lk_status st = LK_OK;
    LK_TRY(grow((void **)&w->steps, w->step_count, &w->step_capacity, 1, sizeof *w->steps, err));
    LK_TRY(grow((void **)&w->seqs, w->seq_count, &w->seq_capacity, count, sizeof *w->seqs, err));
    w->steps[w->step_count++] = (lk_tomb_step){
        .key = key.data, .key_len = (uint32_t)key.len, .tree = tree, .first = w->seq_count};
    for (uint32_t i = 0; i < count; i++) {
        LK_ASSERT(i == 0 || seqs[i - 1] > seqs[i]);
        w->seqs[w->seq_count++] = seqs[i];
    }
done:
    return st;
}

lk_status lk_tombs_writer_finish(const lk_tombs_writer *w, bool copy, lk_tombs **out, lk_error *err)
{
    *out = NULL;
    if (w->seq_count == 0) return LK_OK;
    size_t n = w->step_count, key_bytes = 0;
    for (size_t i = 0; copy && i < n; i++) key_bytes += w->steps[i].key_len;
    size_t bytes = sizeof(lk_tombs) + n * sizeof(uint64_t) + w->seq_count * sizeof(uint64_t) +
                   (n + 1) * sizeof(lk_tomb_step) + key_bytes;
    lk_tombs *t = malloc(bytes);
    if (t == NULL) return lk_fail_nomem(err, bytes);
    uint64_t *heads = (uint64_t *)(t + 1), *seqs = heads + n;
    lk_tomb_step *steps = (lk_tomb_step *)(seqs + w->seq_count);
    uint8_t *keys = (uint8_t *)(steps + n + 1);
    atomic_init(&t->refs, 1);
    t->count = w->step_count;
    t->newest = 0;
    t->bytes = bytes;
    t->heads = heads;
    t->steps = steps;
    t->seqs = seqs;
    memcpy(seqs, w->seqs, w->seq_count * sizeof *seqs);
    memcpy(steps, w->steps, n * sizeof *steps);
    steps[n] = (lk_tomb_step){.first = w->seq_count};
    for (uint32_t i = 0; i < w->seq_count; i++)
        t->newest = seqs[i] > t->newest ? seqs[i] : t->newest;
    for (size_t i = 0; i < n; i++) {
        heads[i] = lk_key_prefix(steps[i].key, steps[i].key_len);
        if (!copy) continue;
        if (steps[i].key_len > 0) memcpy(keys, steps[i].key, steps[i].key_len);
        steps[i].key = keys;
        keys += steps[i].key_len;
    }
    *out = t;
    return LK_OK;
}

void lk_tombs_writer_deinit(lk_tombs_writer *w)
{
    free(w->steps);
    free(w->seqs);
    memset(w, 0, sizeof *w);
}

/* ---- merging ---- */

static int step_compare(const lk_tomb_step *a, const lk_tomb_step *b)
{
    if (a->tree != b->tree) return a->tree < b->tree ? -1 : 1;
    return lk_key_compare(a->key, a->key_len, b->key, b->key_len);
}

/* The sequences of two steps in one list, without those that nobody tells from a newer one. */
static uint32_t seqs_merge(const lk_tombs *a, uint32_t a_at, const lk_tombs *b, uint32_t b_at,
                           const lk_snapshots *snapshots, uint64_t *out)
{
    uint32_t i = 0, i_end = 0, j = 0, j_end = 0, n = 0;
    if (a_at > 0) {
        i = a->steps[a_at - 1].first;
        i_end = a->steps[a_at].first;
    }
    if (b_at > 0) {
        j = b->steps[b_at - 1].first;
        j_end = b->steps[b_at].first;
    }
    while (i < i_end || j < j_end) {
        bool from_a = j == j_end || (i < i_end && a->seqs[i] >= b->seqs[j]);
        uint64_t seq = from_a ? a->seqs[i++] : b->seqs[j++];
        if (n > 0 && (seq == out[n - 1] || !lk_snapshots_between(snapshots, seq, out[n - 1])))
            continue;
        out[n++] = seq;
    }
    return n;
}

/* Most sequences that a step has. */
static uint32_t step_most(const lk_tombs *t)
{
    uint32_t most = 0;
    for (uint32_t i = 0; t != NULL && i < t->count; i++) {
        uint32_t n = t->steps[i + 1].first - t->steps[i].first;
        if (n > most) most = n;
    }
    return most;
}

lk_status lk_tombs_join(const lk_tombs *a, const lk_tombs *b, const lk_snapshots *snapshots,
                        bool copy, lk_tombs **out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_tombs_writer w = {0};
    uint32_t i = 0, j = 0, a_count = a == NULL ? 0 : a->count, b_count = b == NULL ? 0 : b->count;
    size_t room = (size_t)step_most(a) + step_most(b) + 1;
    uint64_t *seqs = malloc(room * sizeof *seqs);
    *out = NULL;
    if (seqs == NULL) return lk_fail_nomem(err, room * sizeof *seqs);
    while (i < a_count || j < b_count) {
        int c = i == a_count ? 1 : j == b_count ? -1 : step_compare(&a->steps[i], &b->steps[j]);
        const lk_tomb_step *step = c <= 0 ? &a->steps[i] : &b->steps[j];
        i += c <= 0;
        j += c >= 0;
        uint32_t n = seqs_merge(a, i, b, j, snapshots, seqs);
        LK_TRY(lk_tombs_writer_step(&w, step->tree, (lk_bytes){step->key, step->key_len}, seqs, n,
                                    err));
    }
    LK_TRY(lk_tombs_writer_finish(&w, copy, out, err));
done:
    lk_tombs_writer_deinit(&w);
    free(seqs);
    return st;
}

static lk_status make_one(const lk_tomb *range, bool copy, lk_tombs **out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_tombs_writer w = {0};
    static const lk_bytes BEGIN = {(const uint8_t *)"", 0};
    bool to_end = range->stop.data == NULL;
    *out = NULL;
    if (!to_end && lk_key_compare(range->start.data, range->start.len, range->stop.data,
                                  range->stop.len) >= 0) {
        return LK_OK;
    }
    LK_TRY(lk_tombs_writer_step(&w, range->tree, range->start, &range->seq, 1, err));
    LK_TRY(lk_tombs_writer_step(&w, to_end ? range->tree + 1 : range->tree,
                                to_end ? BEGIN : range->stop, &range->seq, 0, err));
    LK_TRY(lk_tombs_writer_finish(&w, copy, out, err));
done:
    lk_tombs_writer_deinit(&w);
    return st;
}

lk_status lk_tombs_make(const lk_tomb *ranges, size_t count, const lk_snapshots *snapshots,
                        bool copy, lk_tombs **out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_tombs *left = NULL, *right = NULL;
    *out = NULL;
    if (count == 0) return LK_OK;
    if (count == 1) return make_one(ranges, copy, out, err);
    LK_TRY(lk_tombs_make(ranges, count / 2, snapshots, false, &left, err));
    LK_TRY(lk_tombs_make(ranges + count / 2, count - count / 2, snapshots, false, &right, err));
    LK_TRY(lk_tombs_join(left, right, snapshots, copy, out, err));
done:
    lk_tombs_unref(left);
    lk_tombs_unref(right);
    return st;
}

/* ---- searching ---- */

uint32_t lk_tombs_seek(const lk_tombs *t, uint32_t tree, const uint8_t *key, size_t key_len)
{
    uint64_t head = lk_key_prefix(key, key_len);
    uint32_t low = 0, high = t->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const lk_tomb_step *step = &t->steps[middle];
        bool behind = step->tree > tree || (step->tree == tree && t->heads[middle] > head);
        if (step->tree == tree && t->heads[middle] == head) {
            behind = lk_key_compare(step->key, step->key_len, key, key_len) > 0;
        }
        if (behind) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

uint64_t lk_tombs_oldest_above(const lk_tombs *t, uint32_t at, uint64_t seq)
{
    uint64_t found = LK_SEQ_MAX;
    if (at == 0) return found;
    for (uint32_t i = t->steps[at - 1].first; i < t->steps[at].first && t->seqs[i] > seq; i++) {
        found = t->seqs[i];
    }
    return found;
}

bool lk_tombs_touch(const lk_tombs *t, uint32_t tree, lk_bytes least, lk_bytes greatest,
                    uint64_t seq)
{
    uint32_t at = lk_tombs_seek(t, tree, least.data, least.len);
    for (;; at++) {
        if (at > 0 && lk_tombs_newest(t, at, LK_SEQ_MAX) > seq) return true;
        if (at == t->count) return false;
        const lk_tomb_step *next = &t->steps[at];
        if (next->tree != tree) return false;
        if (greatest.data != NULL &&
            lk_key_compare(next->key, next->key_len, greatest.data, greatest.len) > 0) {
            return false;
        }
    }
}

bool lk_tombs_cover_all(const lk_tombs *t, uint32_t tree, lk_bytes least, lk_bytes greatest,
                        uint64_t above, uint64_t seq)
{
    uint32_t at = lk_tombs_seek(t, tree, least.data, least.len);
    for (; lk_tombs_newest(t, at, seq) > above; at++) {
        if (at == t->count) return true;
        const lk_tomb_step *next = &t->steps[at];
        if (next->tree != tree ||
            lk_key_compare(next->key, next->key_len, greatest.data, greatest.len) > 0) {
            return true;
        }
    }
    return false;
}

uint32_t lk_tombs_stretches(const lk_tombs *t)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->count; i++) n += t->steps[i + 1].first > t->steps[i].first;
    return n;
}

static bool step_has(const lk_tombs *t, uint32_t step, uint64_t seq)
{
    for (uint32_t i = t->steps[step].first; i < t->steps[step + 1].first; i++) {
        if (t->seqs[i] == seq) return true;
    }
    return false;
}

lk_status lk_tombs_each(const lk_tombs *t, lk_tombs_emit *emit, void *context, lk_error *err)
{
    for (uint32_t i = 0; i < t->count; i++) {
        const lk_tomb_step *step = &t->steps[i];
        for (uint32_t s = step->first; s < step[1].first; s++) {
            uint64_t seq = t->seqs[s];
            if (i > 0 && step_has(t, i - 1, seq)) continue; /* began before */
            uint32_t end = i + 1;
            while (step_has(t, end, seq)) end++; /* the last step has none */
            lk_tomb range = {.start = {step->key, step->key_len}, .seq = seq, .tree = step->tree};
            if (t->steps[end].tree == step->tree) {
                range.stop = (lk_bytes){t->steps[end].key, t->steps[end].key_len};
            }
            lk_status st = emit(context, &range, err);
            if (st != LK_OK) return st;
        }
    }
    return LK_OK;
}

/* ---- several ---- */

lk_status lk_cover_add(lk_cover *c, lk_tombs *t, lk_error *err)
{
    if (t == NULL) return LK_OK;
    lk_status st = grow((void **)&c->layers, c->count, &c->capacity, 1, sizeof(lk_tombs *), err);
    if (st != LK_OK) return st;
    lk_tombs_ref(t);
    c->layers[c->count++] = t;
    return LK_OK;
}

void lk_cover_deinit(lk_cover *c)
{
    for (uint32_t i = 0; i < c->count; i++) lk_tombs_unref(c->layers[i]);
    free(c->layers);
    memset(c, 0, sizeof *c);
}

void lk_cover_at(const lk_cover *c, uint32_t tree, lk_bytes key, lk_cover_region *out)
{
    *out = (lk_cover_region){.lower = {(const uint8_t *)"", 0}};
    for (uint32_t i = 0; i < c->count; i++) {
        const lk_tombs *t = c->layers[i];
        uint32_t at = lk_tombs_seek(t, tree, key.data, key.len);
        uint64_t seq = lk_tombs_newest(t, at, c->seq);
        if (seq > out->seq) out->seq = seq;
        if (at > 0 && t->steps[at - 1].tree == tree) {
            const lk_tomb_step *step = &t->steps[at - 1];
            if (lk_key_compare(step->key, step->key_len, out->lower.data, out->lower.len) > 0) {
                out->lower = (lk_bytes){step->key, step->key_len};
            }
        }
        if (at < t->count && t->steps[at].tree == tree) {
            const lk_tomb_step *step = &t->steps[at];
            if (out->upper.data == NULL ||
                lk_key_compare(step->key, step->key_len, out->upper.data, out->upper.len) < 0) {
                out->upper = (lk_bytes){step->key, step->key_len};
            }
        }
    }
}
