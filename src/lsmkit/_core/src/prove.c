/* prove.c: proving and indexing a segment piece by piece, from its end.
 *
 * Owns      tags of all records and the ends of the index's chains, until the segment is proved.
 * Errors    see prove.h.
 */
#include "prove.h"

#include <stdlib.h>

#include "check.h"
#include "frame.h"

#define AHEAD 16u /* slots fetched ahead of their use */
/* Pieces that are indexed together. The first touch of the index costs more than the proof of a piece:
 * 2 ms for fresh pages. Until then keys are looked for among the tags. */
#define LAG_PIECES 8u

typedef enum proof_state { PROOF_OPEN, PROOF_DONE, PROOF_FAILED } proof_state;

/* A place between two frames: what the one behind it must say. */
typedef struct joint {
    uint32_t offset, ordinal, link;
} joint;

typedef struct piece {
    uint32_t from, to; /* frames that begin here belong to it */
    bool any, whole;   /* it has frames; they are a chain */
    bool tombs;        /* some record is a range tombstone */
    bool proved;       /* guarded by lock: the fields before say what was found */
    joint begin, end;
} piece;

struct lk_proof {
    lk_segment *segment;
    _Atomic uint32_t state; /* release: after the index, or the error */
    _Atomic uint32_t taken; /* pieces that somebody works on or has worked on, from the last one */
    joint first, last;
    uint32_t *tags; /* by ordinal */
    size_t tag_bytes, tail_bytes;
    uint32_t piece_count;
    lk_event changed;

    lk_lock lock;
    /* guarded by lock */
    uint32_t *tails; /* by slot: the oldest record of the chain */
    joint front;     /* what is behind it is one chain to the end */
    uint32_t joined; /* pieces that are part of that, from the last one */
    uint32_t lag;    /* of those, pieces that are not in the index yet */
    uint32_t linked; /* records from this one on are */
    uint32_t proved; /* pieces, of all */
    bool tombs;      /* a range tombstone is among the records behind `front` */
    bool broken;     /* the next piece is damaged, or is none */
    lk_error failure;
    piece pieces[];
};

/* ---- making ---- */

static void arrays_free(lk_proof *p)
{
    lk_env *env = p->segment->env;
    if (p->tags != NULL) lk_env_unmap(env, (uint8_t *)p->tags, p->tag_bytes);
    if (p->tails != NULL) lk_env_unmap(env, (uint8_t *)p->tails, p->tail_bytes);
    p->tags = p->tails = NULL;
}

void lk_proof_free(lk_proof *p)
{
    if (p == NULL) return;
    arrays_free(p);
    lk_event_deinit(&p->changed);
    lk_lock_deinit(&p->lock);
    free(p);
}

static lk_status arrays_make(lk_proof *p, lk_error *err)
{
    lk_segment *s = p->segment;
    lk_status st = LK_OK;
    uint8_t *memory;
    /* A frame that says it has more records than there are is read to its end all the same. */
    size_t records = (size_t)s->position / LK_RECORD_HEADER_BYTES + 1;
    LK_TRY(lk_index_init(&s->index, s->env, s->count, (uint32_t)records, err));
    p->tag_bytes = records * sizeof(uint32_t);
    LK_TRY(lk_env_map_anonymous(s->env, p->tag_bytes, &memory, err));
    p->tags = (uint32_t *)(void *)memory;
    p->tail_bytes = (size_t)lk_index_slots(&s->index) * sizeof(uint32_t);
    LK_TRY(lk_env_map_anonymous(s->env, p->tail_bytes, &memory, err));
    p->tails = (uint32_t *)(void *)memory;
done:
    return st;
}

lk_status lk_proof_new(lk_segment *s, uint32_t first_link, uint32_t piece_bytes, lk_error *err)
{
    lk_status st = LK_OK;
    LK_ASSERT(s->proof == NULL && s->count > 0 && piece_bytes >= 8 && piece_bytes % 8 == 0);
    uint32_t n = (s->position + piece_bytes - 1) / piece_bytes;
    size_t bytes = sizeof(lk_proof) + n * sizeof(piece);
    lk_proof *p = calloc(1, bytes);
    if (p == NULL) return lk_fail_nomem(err, bytes);
    lk_event_init(&p->changed);
    lk_lock_init(&p->lock);
    p->segment = s;
    p->piece_count = n;
    p->first = (joint){LK_SEGMENT_HEADER_BYTES, 0, first_link};
    p->last = p->front = (joint){s->position, s->count, s->link};
    p->linked = s->count;
    for (uint32_t i = 0; i < n; i++) {
        p->pieces[i].from = i == 0 ? LK_SEGMENT_HEADER_BYTES : i * piece_bytes;
        p->pieces[i].to = i + 1 == n ? s->position : (i + 1) * piece_bytes;
    }
    LK_TRY(arrays_make(p, err));
    s->proof = p;
    p = NULL;
done:
    lk_proof_free(p);
    return st;
}

/* ---- one piece ---- */

static bool header_at(const lk_proof *p, uint32_t offset, lk_frame *out)
{
    const lk_segment *s = p->segment;
    if (!lk_frame_header_parse(s->base, s->position, s->nonce, offset, out)) return false;
    /* Each record before it has a header at least: so the arrays have room for what it says. */
    return out->ordinal <= offset / LK_RECORD_HEADER_BYTES;
}

/* Where the first frame of a piece begins. One that is found by chance has no whole body. */
static bool find_begin(const lk_proof *p, piece *x)
{
    const lk_segment *s = p->segment;
    lk_frame frame;
    x->begin = p->first;
    if (x->from == p->first.offset) return true;
    for (uint32_t at = x->from; at < x->to; at += 8) {
        if (!header_at(p, at, &frame)) continue;
        if (lk_frame_parse(s->base, s->position, s->nonce, at, &frame) != LK_FRAME_WHOLE) continue;
        x->begin = (joint){at, frame.ordinal, frame.link};
        return true;
    }
    return false;
}

/* Reads the frame that continues at a joint: there, or where a sync began a new page. */
static bool read_next(lk_proof *p, joint *at, bool *tombs)
{
    lk_segment *s = p->segment;
    uint32_t page = (uint32_t)lk_align_up(at->offset, LK_PAGE_BYTES);
    for (int i = 0; i < 2; i++) {
        uint32_t offset = i == 0 ? at->offset : page;
        lk_frame f;
        lk_frame_state state =
            lk_frame_read(s->base, s->position, s->nonce, offset, p->tags + at->ordinal,
                          s->index.entries + at->ordinal, &f);
        if (state == LK_FRAME_NONE || f.link != at->link || f.ordinal != at->ordinal) continue;
        if (state != LK_FRAME_WHOLE) return false;
        *tombs |= f.tombs > 0;
        *at =
            (joint){offset + (uint32_t)lk_frame_bytes(f.length), f.ordinal + f.records, f.own_hash};
        return true;
    }
    return false;
}

/* Proves the frames that begin before `to`, from a joint on; sets `*tombs` where one has range
 * tombstones. */
static bool walk(lk_proof *p, uint32_t to, joint *at, bool *tombs)
{
    while (at->offset < to) {
        if (!read_next(p, at, tombs)) return false;
    }
    return true;
}

static void piece_prove(lk_proof *p, piece *x)
{
    lk_segment *s = p->segment;
    uint64_t from = x->from / LK_PAGE_BYTES * LK_PAGE_BYTES;
    lk_env_populate(s->env, s->base + from, (size_t)(x->to - from), false);
    x->any = find_begin(p, x);
    if (!x->any) return;
    x->end = x->begin;
    x->whole = walk(p, x->to, &x->end, &x->tombs);
}

/* ---- the index ---- */

static void index_from(lk_proof *p, uint32_t from)
{
    lk_index *x = &p->segment->index;
    for (uint32_t o = p->linked; o-- > from;) {
        if (o >= from + AHEAD) {
            lk_index_prefetch(x, p->tags[o - AHEAD]);
            __builtin_prefetch(&p->tails[lk_index_home(x, p->tags[o - AHEAD])], 1);
        }
        if (LK_UNLIKELY(p->tombs)) { /* no key leads to a range tombstone */
            lk_record r = lk_segment_record(p->segment, o);
            if (r.kind == LK_KIND_DELETE_RANGE) continue;
        }
        lk_index_link_older(x, p->tags[o], o, p->tails);
    }
    p->linked = from;
    p->lag = 0;
}

/* Whether what ends at `a` goes on at `b`, behind the padding of a sync perhaps. */
static bool joins(joint a, joint b)
{
    return a.ordinal == b.ordinal && a.link == b.link &&
           (a.offset == b.offset || lk_align_up(a.offset, LK_PAGE_BYTES) == b.offset);
}

/* The range tombstones, oldest first, as a writer would have added them. */
static void tombs_add(lk_proof *p)
{
    lk_segment *s = p->segment;
    for (uint32_t o = 0; o < s->count; o++) {
        if (lk_segment_record(s, o).kind == LK_KIND_DELETE_RANGE) lk_tomb_log_add(s, o);
    }
}

static void proof_close(lk_proof *p, proof_state state)
{
    if (state == PROOF_DONE && p->tombs) tombs_add(p);
    arrays_free(p);
    atomic_store_explicit(&p->state, state, memory_order_release);
}

/* The pieces do not make one chain: the walk from the beginning has the last word, and knows where
 * the log breaks off. */
static void walk_all(lk_proof *p)
{
    lk_segment *s = p->segment;
    joint at = p->first;
    lk_error none;
    p->tombs = false;
    if (walk(p, s->position, &at, &p->tombs) && joins(at, p->last) &&
        lk_index_clear(&s->index, s->count, &none) == LK_OK) {
        p->linked = s->count;
        index_from(p, 0);
        proof_close(p, PROOF_DONE);
        return;
    }
    const char *path = lk_file_path(s->file);
    (void)lk_fail_corrupt(&p->failure, path, at.offset, s->position, at.offset,
                          "%s: the log breaks off at byte %u, before a place that is known to have "
                          "been written",
                          path, at.offset);
    proof_close(p, PROOF_FAILED);
}

/* Joins to the chain what is proved, and indexes it; ends the proof when every piece is done, and nobody
 * else writes into its arrays. The lock is held. */
static void join_proved(lk_proof *p)
{
    while (!p->broken && p->joined < p->piece_count) {
        piece *x = &p->pieces[p->piece_count - 1 - p->joined];
        if (!x->proved) break;
        p->joined++;
        if (!x->any) continue; /* in the middle of a large frame */
        p->broken = !x->whole || !joins(x->end, p->front);
        if (p->broken) break;
        p->tombs |= x->tombs;
        p->front = x->begin;
        p->lag++;
    }
    bool is_last = p->proved == p->piece_count;
    if (is_last || p->lag >= LAG_PIECES) index_from(p, p->front.ordinal);
    if (!is_last) return;
    if (!p->broken && joins(p->first, p->front)) {
        proof_close(p, PROOF_DONE);
    } else {
        walk_all(p);
    }
}

/* Proves a piece. False: none is left that nobody works on. */
static bool step(lk_proof *p)
{
    uint32_t taken = atomic_fetch_add_explicit(&p->taken, 1, memory_order_relaxed);
    if (taken >= p->piece_count) {
        atomic_store_explicit(&p->taken, p->piece_count, memory_order_relaxed);
        return false;
    }
    piece *x = &p->pieces[p->piece_count - 1 - taken];
    piece_prove(p, x);
    lk_lock_acquire(&p->lock);
    x->proved = true;
    p->proved++;
    join_proved(p);
    lk_lock_release(&p->lock);
    lk_event_broadcast(&p->changed);
    return true;
}

/* ---- for those who need it ---- */

bool lk_proof_is_open(const lk_segment *s)
{
    return s->proof != NULL &&
           atomic_load_explicit(&s->proof->state, memory_order_acquire) != PROOF_DONE;
}

static lk_status result(const lk_proof *p, lk_error *err)
{
    if (atomic_load_explicit(&p->state, memory_order_acquire) != PROOF_FAILED) return LK_OK;
    if (err != NULL) *err = p->failure;
    return p->failure.code;
}

lk_status lk_proof_finish(lk_segment *s, lk_error *err)
{
    lk_proof *p = s->proof;
    while (p != NULL) {
        uint64_t seen = lk_event_generation(&p->changed);
        if (atomic_load_explicit(&p->state, memory_order_acquire) != PROOF_OPEN) break;
        if (!step(p)) (void)lk_event_wait_ns(&p->changed, seen, LK_EVENT_FOREVER);
    }
    return p == NULL ? LK_OK : result(p, err);
}

/* The newest of the first `visible` records with that key, among those that are proved. */
static bool find_proved(const lk_proof *p, uint32_t tree, const uint8_t *key, size_t key_len,
                        uint64_t hash, uint32_t visible, lk_record *out, uint32_t *out_ordinal)
{
    const lk_segment *s = p->segment;
    uint32_t tag = lk_index_tag(hash), o = visible < p->linked ? visible : p->linked;
    if (lk_segment_find(s, tree, key, key_len, hash, visible, out, out_ordinal)) return true;
    while (o > p->front.ordinal) { /* none when the proof is over: then the tags are gone */
        if (p->tags[--o] != tag) continue;
        *out = lk_segment_record(s, o);
        *out_ordinal = o;
        if (out->tree == tree && lk_bytes_equal(out->key, out->key_len, key, key_len)) return true;
    }
    return false;
}

lk_status lk_proof_find(lk_segment *s, uint32_t tree, const uint8_t *key, size_t key_len,
                        uint64_t hash, uint32_t visible, bool *out_found, lk_record *out,
                        uint32_t *out_ordinal, lk_error *err)
{
    lk_proof *p = s->proof;
    *out_found = false;
    for (;;) {
        uint64_t seen = lk_event_generation(&p->changed);
        lk_lock_acquire(&p->lock);
        bool is_over = atomic_load_explicit(&p->state, memory_order_acquire) != PROOF_OPEN;
        *out_found = find_proved(p, tree, key, key_len, hash, visible, out, out_ordinal);
        bool tombs = p->tombs;
        lk_lock_release(&p->lock);
        /* Where a range tombstone may hide it, all have to be known, and then the caller asks. */
        if (*out_found && tombs && !is_over) {
            lk_status st = lk_proof_finish(s, err);
            if (st != LK_OK) return st;
            continue;
        }
        /* Of a damaged segment what is behind the damage was proved as well. */
        if (*out_found) return LK_OK;
        if (is_over) return result(p, err);
        if (!step(p)) (void)lk_event_wait_ns(&p->changed, seen, LK_EVENT_FOREVER);
    }
}
