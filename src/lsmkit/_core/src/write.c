/* write.c: the store's write path: a frame into the active segment, room for it, and its sync.
 *
 * The hot path is lk_store_try_put: one compare-and-swap, a store into the mapping, one release. All
 * that is rare - no segment yet, the segment is full, writers are slowed, the store is closing or
 * failed - is behind one comparison with `limit`, which then is lower than the position.
 *
 * Callers   the border. Waiting for room is in room.c.
 * Threads   see store.h.
 */
#include <stdlib.h>

#include "check.h"
#include "frame.h"
#include "stamp.h"
#include "store.h"

/* ---- the hot path ---- */

static void count(lk_store *s, uint64_t records, uint64_t bytes)
{
    /* Under write_lock: plain additions, atomic only for who reads the statistics meanwhile. */
    lk_store_counters *c = &s->counters;
    atomic_store_explicit(&c->frames, atomic_load_explicit(&c->frames, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    atomic_store_explicit(&c->records,
                          atomic_load_explicit(&c->records, memory_order_relaxed) + records,
                          memory_order_relaxed);
    atomic_store_explicit(&c->bytes, atomic_load_explicit(&c->bytes, memory_order_relaxed) + bytes,
                          memory_order_relaxed);
}

lk_status lk_store_try_put(lk_store *s, uint32_t tree, lk_kind kind, const uint8_t *key,
                           uint32_t key_len, const uint8_t *value, uint32_t value_len,
                           uint64_t hash)
{
    uint64_t bytes = lk_frame_bytes(lk_record_bytes(tree, key_len, value_len));
    if (LK_UNLIKELY(!lk_lock_try(&s->write_lock))) return LK_FULL;
    lk_status st = LK_FULL;
    if (LK_LIKELY(lk_store_fits(s, bytes) && s->mapped)) {
        st = lk_segment_put(s->active, tree, kind, key, key_len, value, value_len, hash, NULL);
        if (LK_LIKELY(st == LK_OK)) count(s, 1, bytes);
    }
    lk_lock_release(&s->write_lock);
    return st == LK_OK ? LK_OK : LK_FULL;
}

lk_status lk_store_try_begin(lk_store *s, uint64_t body_bytes, uint32_t records, uint8_t **out)
{
    *out = NULL;
    if (!lk_lock_try(&s->write_lock)) return LK_FULL;
    if (lk_store_fits(s, lk_frame_bytes(body_bytes)) && s->mapped &&
        lk_segment_begin(s->active, body_bytes, records, false, out, NULL) == LK_OK) {
        return LK_OK;
    }
    lk_lock_release(&s->write_lock);
    return LK_FULL;
}

lk_status lk_store_commit(lk_store *s, uint64_t body_bytes, uint32_t records, lk_error *err)
{
    LK_ASSERT(lk_lock_is_held(&s->write_lock));
    lk_status st = lk_segment_commit(s->active, body_bytes, records, false, err);
    if (st == LK_OK) count(s, records, lk_frame_bytes(body_bytes));
    lk_lock_release(&s->write_lock);
    return st;
}

lk_status lk_store_try_put_for(lk_store *s, uint32_t tree, lk_kind kind, const uint8_t *key,
                               uint32_t key_len, const uint8_t *value, uint32_t value_len,
                               uint64_t ttl_us)
{
    uint8_t *to;
    uint32_t head_bytes = lk_stamp_make(kind, ttl_us, 0).head_bytes;
    uint64_t body_bytes = lk_record_bytes(tree, key_len, head_bytes + (size_t)value_len);
    lk_status st = lk_store_try_begin(s, body_bytes, 1, &to);
    if (st != LK_OK) return LK_FULL;
    lk_stamp stamp = lk_stamp_make(kind, ttl_us, lk_env_wall_us(s->env));
    (void)lk_record_write_headed(to, tree, stamp.kind, key, key_len, stamp.head, stamp.head_bytes,
                                 value, value_len);
    return lk_store_commit(s, body_bytes, 1, NULL);
}

/* ---- failing ---- */

void lk_store_fail(lk_store *s, const lk_error *err)
{
    lk_lock_acquire(&s->failure_lock);
    bool first = atomic_load_explicit(&s->failed, memory_order_relaxed) == 0;
    if (first) {
        s->failure = *err;
        atomic_store_explicit(&s->failed, 1, memory_order_release);
    }
    lk_lock_release(&s->failure_lock);
    if (!first) return;
    lk_lock_acquire(&s->write_lock);
    s->limit = 0;
    lk_lock_release(&s->write_lock);
    /* The kernel may have dropped the pages that it could not write and call them clean, so what is
     * in no table is copied before anybody reads it again. */
    lk_view *v = lk_store_view(s);
    for (uint32_t i = 0; i < v->segment_count; i++) {
        lk_segment *segment = v->segments[i];
        if (!segment->mapped) continue;
        /* Where the kernel cannot, the mapping stays: nothing better is to be had. The lock keeps the
         * keeper from taking away the pages of one that it has seen flushed. */
        lk_lock_acquire(&s->view_lock);
        (void)lk_env_detach(s->env, segment->base, segment->memory_bytes, NULL);
        lk_lock_release(&s->view_lock);
    }
    lk_view_unref(v);
    lk_event_broadcast(&s->changed);
}

lk_status lk_store_failure(lk_store *s, lk_error *err)
{
    if (atomic_load_explicit(&s->failed, memory_order_acquire) == 0) return LK_OK;
    if (err != NULL) *err = s->failure;
    return s->failure.code;
}

/* ---- whole writes ---- */

/* What each row of the columns is stored as. */
static lk_stamp stamp_of(const lk_write *w, uint64_t now_us)
{
    return lk_stamp_make(w->kind, w->has_ttl ? w->ttl_us : LK_TTL_NONE, now_us);
}

static uint64_t columns_bytes(const lk_write *w)
{
    uint64_t each = LK_RECORD_HEADER_BYTES + (w->tree != 0 ? 4 : 0);
    each += stamp_of(w, 0).head_bytes;
    uint64_t bytes = each * w->records;
    uint8_t scratch[8];
    for (int c = 0; c < 2; c++) {
        const lk_column *col = c == 0 ? w->keys : w->values;
        if (col == NULL) continue;
        if (col->form == LK_COLUMN_FIXED || col->form == LK_COLUMN_INTEGER ||
            col->form == LK_COLUMN_FLOAT) {
            bytes += (uint64_t)col->width * w->records;
            continue;
        }
        for (size_t i = 0; i < w->records; i++) bytes += lk_column_row(col, i, scratch).len;
    }
    return bytes;
}

static uint8_t *columns_fill(lk_store *s, const lk_write *w, uint8_t *to)
{
    uint8_t key_scratch[8], value_scratch[8];
    lk_stamp stamp = stamp_of(w, w->has_ttl ? lk_env_wall_us(s->env) : 0);
    for (size_t i = 0; i < w->records; i++) {
        lk_bytes key = lk_column_row(w->keys, i, key_scratch);
        lk_bytes value = {NULL, 0};
        if (w->values != NULL) value = lk_column_row(w->values, i, value_scratch);
        to = lk_record_write_headed(to, w->tree, stamp.kind, key.data, key.len, stamp.head,
                                    stamp.head_bytes, value.data, value.len);
    }
    return to;
}

/* Of the record that moves the position of a source. */
static uint64_t position_bytes(const lk_write *w)
{
    if (w->source.data == NULL) return 0;
    return lk_record_bytes(LK_TREE_POSITIONS, w->source.len, sizeof w->source_seq);
}

/* `settings` are needed where the body is stamped. */
static lk_status append(lk_store *s, const lk_write *w, const lk_settings *settings,
                        uint64_t body_bytes, bool staged, lk_error *err)
{
    uint8_t *body;
    uint32_t records = (uint32_t)w->records + (w->source.data != NULL);
    lk_status st = lk_segment_begin(s->active, body_bytes, records, staged, &body, err);
    if (st != LK_OK) return st;
    if (w->keys != NULL) {
        body = columns_fill(s, w, body);
    } else if (w->stamp) {
        lk_stamp_records(settings, w->body, w->records, lk_env_wall_us(s->env), body);
        body += body_bytes - position_bytes(w);
    } else if (w->body_bytes > 0) {
        memcpy(body, w->body, (size_t)w->body_bytes);
        body += w->body_bytes;
    }
    if (w->source.data != NULL) {
        uint8_t seq[8];
        lk_store64(seq, w->source_seq);
        (void)lk_record_write(body, LK_TREE_POSITIONS, LK_KIND_PUT, w->source.data, w->source.len,
                              seq, sizeof seq);
    }
    st = lk_segment_commit(s->active, body_bytes, records, staged, err);
    if (st == LK_OK) count(s, records, lk_frame_bytes(body_bytes));
    return st;
}

static lk_status sync_to(lk_store *s, uint64_t generation, uint32_t end, lk_error *err);

/* The log is known to be whole before anything is added to it. */
static lk_status wait_for_proof(lk_store *s, lk_error *err)
{
    if (LK_LIKELY(!atomic_load_explicit(&s->unproved, memory_order_acquire))) return LK_OK;
    lk_view *v = lk_store_view(s);
    lk_status st = lk_view_prove(v, err);
    lk_view_unref(v);
    return st;
}

/* The timeout that is left since `started_ns`. */
static uint64_t time_left(lk_store *s, uint64_t started_ns, uint64_t timeout_ns)
{
    uint64_t passed = lk_env_now_ns(s->env) - started_ns;
    if (timeout_ns == UINT64_MAX) return timeout_ns;
    return passed < timeout_ns ? timeout_ns - passed : 0;
}

/* As lk_store_lock_with_room, and what is checked was not written since its moment: else LK_MISS. */
static lk_status lock_checked(lk_store *s, const lk_write *w, uint64_t frame_bytes, bool deletes,
                              lk_error *err)
{
    lk_prover p;
    uint64_t started = lk_env_now_ns(s->env);
    lk_status st = lk_prover_init(&p, w->checks, err);
    if (st != LK_OK) return st;
    for (;;) {
        uint64_t now;
        lk_verdict verdict;
        lk_view *v = lk_store_view_now(s, &now);
        st = lk_prover_look(&p, v, now, &s->guard, &verdict, err);
        lk_view_unref(v);
        if (st == LK_OK && verdict != LK_SAME) st = LK_MISS;
        if (st != LK_OK) break;
        st = lk_store_lock_with_room(s, frame_bytes, deletes, time_left(s, started, w->timeout_ns),
                                     err);
        if (st != LK_OK) break;
        v = lk_store_view_now(s, &now);
        verdict = lk_prover_settle(&p, v, now);
        lk_view_unref(v);
        if (verdict == LK_SAME) break; /* with the lock */
        lk_lock_release(&s->write_lock);
        if (verdict == LK_CHANGED) {
            st = LK_MISS;
            break;
        }
    }
    lk_prover_deinit(&p);
    return st;
}

static lk_status write_frame(lk_store *s, const lk_write *w, const lk_settings *settings,
                             uint64_t body_bytes, lk_error *err)
{
    body_bytes += position_bytes(w);
    uint64_t frame_bytes = lk_frame_bytes(body_bytes);
    if (frame_bytes > LK_SEGMENT_BYTES_MAX - LK_SEGMENT_HEADER_BYTES ||
        w->records > UINT32_MAX / 2) {
        return lk_fail(err, LK_INVALID, 0, s->dir, 0, LK_SEGMENT_BYTES_MAX, frame_bytes,
                       "an atomic write of %llu bytes is larger than the largest log segment",
                       (unsigned long long)frame_bytes);
    }
    bool staged = w->durability == LK_DURABILITY_SYNC;
    bool deletes = s->options.disk_max != 0 && lk_store_is_deleting(w);
    lk_status st = wait_for_proof(s, err);
    if (st == LK_OK) {
        st = w->checks != NULL
                 ? lock_checked(s, w, frame_bytes, deletes, err)
                 : lk_store_lock_with_room(s, frame_bytes, deletes, w->timeout_ns, err);
    }
    if (st != LK_OK) return st;
    lk_error failure_of = {0};
    st = append(s, w, settings, body_bytes, staged, &failure_of);
    uint64_t generation = s->active->generation;
    uint32_t end = s->active->tail;
    if (w->durability == LK_DURABILITY_PERIODIC) s->periodic = true;
    lk_lock_release(&s->write_lock);
    if (st == LK_IO) lk_store_fail(s, &failure_of);
    if (st != LK_OK) {
        if (err != NULL) *err = failure_of;
        return st;
    }
    return staged ? sync_to(s, generation, end, err) : LK_OK;
}

static lk_status write_body(lk_store *s, const lk_write *w, lk_error *err)
{
    if (w->keys != NULL) return write_frame(s, w, NULL, columns_bytes(w), err);
    if (!w->stamp) return write_frame(s, w, NULL, w->body_bytes, err);
    lk_view *v = lk_store_view(s); /* pins the settings */
    uint64_t bytes = lk_stamp_bytes(v->settings, w->body, w->records);
    lk_status st = write_frame(s, w, v->settings, bytes, err);
    lk_view_unref(v);
    return st;
}

/* ---- exactly once ---- */

/* The position of a source as of `*out_moment`. */
static lk_status position_read(lk_store *s, lk_bytes source, uint64_t *out_moment, bool *out_any,
                               uint64_t *out_seq, lk_error *err)
{
    lk_lookup found;
    lk_answer answer;
    lk_block *block;
    lk_view *v = lk_store_view_now(s, out_moment);
    *out_any = false;
    *out_seq = 0;
    lk_status st = lk_view_fetch(v, &s->guard, LK_TREE_POSITIONS, source.data, source.len,
                                 lk_hash_key(LK_TREE_POSITIONS, source.data, source.len),
                                 *out_moment, &found, &answer, &block, err);
    if (st == LK_OK && found == LK_LOOKUP_VALUE) {
        if (answer.value.len == sizeof *out_seq) {
            *out_any = true;
            *out_seq = lk_load64(answer.value.data);
        } else {
            st = lk_fail_corrupt(err, s->dir, 0, sizeof *out_seq, answer.value.len,
                                 "the position of a source has the wrong length");
        }
        lk_block_unref(block);
    }
    lk_view_unref(v);
    return st;
}

lk_status lk_store_position(lk_store *s, lk_bytes source, bool *out_any, uint64_t *out_seq,
                            lk_error *err)
{
    uint64_t moment;
    return position_read(s, source, &moment, out_any, out_seq, err);
}

/* Of writers with the same source one is first; the others look again. */
static lk_status write_once(lk_store *s, const lk_write *w, lk_error *err)
{
    const lk_check check = {.tree = LK_TREE_POSITIONS, .start = w->source};
    lk_checks checks = {.items = &check, .count = 1};
    lk_write once = *w;
    LK_ASSERT(w->checks == NULL);
    once.checks = &checks;
    for (;;) {
        bool any;
        uint64_t seq;
        lk_status st = position_read(s, w->source, &checks.moment, &any, &seq, err);
        if (st != LK_OK) return st;
        if (any && seq >= w->source_seq) {
            /* Whoever wrote it may still wait for the disk, and this caller may now forget it. */
            if (w->durability == LK_DURABILITY_SYNC) st = lk_store_sync(s, err);
            return st == LK_OK ? LK_MISS : st;
        }
        st = write_body(s, &once, err);
        if (st != LK_MISS) return st;
    }
}

lk_status lk_store_write(lk_store *s, const lk_write *w, lk_error *err)
{
    if (w->records == 0 && w->source.data == NULL) return LK_OK;
    if (s->options.read_only) {
        return lk_fail(err, LK_READONLY, 0, s->dir, 0, 0, 0, "the store was opened read-only");
    }
    return w->source.data != NULL ? write_once(s, w, err) : write_body(s, w, err);
}

/* ---- durability ---- */

/* What was read back at open is in tables before anything new is called durable (rule 2). */
static lk_status wait_for_recovered(lk_store *s, lk_error *err)
{
    while (atomic_load_explicit(&s->recovered_left, memory_order_acquire) != 0) {
        uint64_t seen = lk_event_generation(&s->changed);
        lk_status st = lk_store_failure(s, err);
        if (st != LK_OK) return st;
        if (atomic_load_explicit(&s->recovered_left, memory_order_acquire) == 0) break;
        pthread_mutex_lock(&s->queue_mutex);
        if (s->background_error.code != LK_OK && s->flush_retry_ns != 0) {
            st = s->background_error.code;
            if (err != NULL) *err = s->background_error;
        }
        pthread_mutex_unlock(&s->queue_mutex);
        if (st != LK_OK) return st;
        (void)lk_event_wait_ns(&s->changed, seen, 100000000);
    }
    return LK_OK;
}

/* Syncs every live segment, oldest first, as far as it is written now. */
static lk_status sync_all(lk_store *s, uint64_t *out_generation, uint32_t *out_end, lk_error *err)
{
    lk_status st = LK_OK;
    lk_lock_acquire(&s->write_lock);
    lk_view *v = lk_store_view(s);
    lk_segment *a = s->active;
    uint32_t tail = a != NULL ? a->tail : 0;
    *out_generation = s->newest_generation;
    *out_end = a != NULL ? tail : UINT32_MAX;
    if (a != NULL && tail > a->synced) {
        /* What comes next begins a new page: a page that was synced is never written again, or a
         * torn write could take with it what was safe. */
        uint64_t page = lk_align_up(tail, LK_PAGE_BYTES);
        a->position = page < a->capacity ? (uint32_t)page : a->capacity;
    }
    lk_lock_release(&s->write_lock);
    for (uint32_t i = v->segment_count; i-- > 0;) {
        lk_segment *segment = v->segments[i];
        uint32_t end = segment == a ? tail : segment->tail;
        if (segment->recovered || segment->synced >= end) continue;
        LK_TRY(lk_file_datasync(segment->file, err));
        atomic_fetch_add_explicit(&s->counters.syncs, 1, memory_order_relaxed);
        lk_lock_acquire(&s->write_lock);
        segment->synced = end;
        lk_lock_release(&s->write_lock);
    }
done:
    lk_view_unref(v);
    return st;
}

static bool is_durable(const lk_store *s, uint64_t generation, uint32_t end)
{
    return s->durable_generation > generation ||
           (s->durable_generation == generation && s->durable_end >= end);
}

/* Group commit: one of those who wait syncs for all that have written by then. */
static lk_status sync_to(lk_store *s, uint64_t generation, uint32_t end, lk_error *err)
{
    lk_status st = wait_for_recovered(s, err);
    if (st != LK_OK) return st;
    pthread_mutex_lock(&s->sync_mutex);
    while (st == LK_OK && !is_durable(s, generation, end)) {
        if (s->syncing) {
            pthread_cond_wait(&s->sync_cond, &s->sync_mutex);
            st = lk_store_failure(s, err);
            continue;
        }
        s->syncing = true;
        pthread_mutex_unlock(&s->sync_mutex);
        uint64_t synced_generation;
        uint32_t synced_end;
        lk_error failed = {0};
        st = lk_store_failure(s, &failed);
        if (st == LK_OK) st = sync_all(s, &synced_generation, &synced_end, &failed);
        if (st != LK_OK) {
            lk_store_fail(s, &failed);
            if (err != NULL) *err = failed;
        }
        pthread_mutex_lock(&s->sync_mutex);
        s->syncing = false;
        if (st == LK_OK && !is_durable(s, synced_generation, synced_end)) {
            s->durable_generation = synced_generation;
            s->durable_end = synced_end;
        }
        pthread_cond_broadcast(&s->sync_cond);
    }
    pthread_mutex_unlock(&s->sync_mutex);
    return st;
}

lk_status lk_store_sync(lk_store *s, lk_error *err)
{
    if (s->options.read_only) return LK_OK;
    lk_status st = lk_store_failure(s, err);
    if (st != LK_OK) return st;
    lk_lock_acquire(&s->write_lock);
    uint64_t generation = s->newest_generation;
    /* What was frozen since the last sync is in the same generation. */
    uint32_t end = s->active != NULL ? s->active->tail : UINT32_MAX;
    lk_lock_release(&s->write_lock);
    return sync_to(s, generation, end, err);
}

uint64_t lk_store_log_bytes(lk_store *s)
{
    lk_lock_acquire(&s->write_lock);
    uint64_t bytes = s->active != NULL ? s->active->tail - LK_SEGMENT_HEADER_BYTES : 0;
    lk_lock_release(&s->write_lock);
    return bytes;
}

/* The write lock is held. */
static void active_freeze(lk_store *s)
{
    lk_segment *a = s->active;
    s->next_seq = a->base_seq + a->count;
    s->previous_end = a->tail;
    s->previous_link = a->link;
    s->active = NULL; /* the view still holds it; the next write brings another */
    s->limit = 0;
    lk_segment_unref(a);
    atomic_fetch_add_explicit(&s->frozen, 1, memory_order_relaxed);
}

void lk_store_freeze(lk_store *s, uint64_t *out_generation)
{
    *out_generation = 0;
    lk_lock_acquire(&s->write_lock);
    if (s->active != NULL && s->active->count > 0) {
        *out_generation = s->active->generation;
        active_freeze(s);
    }
    lk_lock_release(&s->write_lock);
    if (*out_generation != 0) lk_store_wake(s);
}

uint64_t lk_store_hold(lk_store *s)
{
    lk_lock_acquire(&s->write_lock);
    LK_ASSERT(!s->held);
    s->held = true;
    /* Also an empty one: its first record would get the sequence that is given away. */
    if (s->active != NULL) active_freeze(s);
    uint64_t seq = s->next_seq;
    lk_lock_release(&s->write_lock);
    return seq;
}

void lk_store_resume(lk_store *s, uint64_t next_seq)
{
    lk_lock_acquire(&s->write_lock);
    LK_ASSERT(s->held && s->active == NULL);
    s->held = false;
    s->next_seq = next_seq;
    lk_lock_release(&s->write_lock);
    lk_event_broadcast(&s->changed);
}
