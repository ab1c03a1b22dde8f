/* refresh.c: a store that is only read moves on to what its owner has committed.
 *
 * Two things may be new: edits of the manifest (a flush, a compaction) and frames at the end of the
 * log. The pulse (pulse.h) tells whether there was an edit or a new segment; if not, the last segment
 * is read on. Else the manifest is followed, segments that it has retired are dropped, and those that
 * came are opened. All of it is prepared beside what is read; then counts are published and the view
 * is replaced, and nothing of that can fail.
 *
 * Owns      the follower: the registration, replaced views that scans and snapshots still hold.
 * Callers   store.c at opening and closing; the border.
 * Threads   one refresh at a time, under `lock`; readers go on meanwhile, and look at no record
 *           before it is published.
 * Always    what is read is a prefix of the commit order, and never an earlier one than before.
 * Errors    LK_CORRUPT also when files move faster than they are read: that is tried again as long as
 *           it fails in another way each time.
 */
#include <stdio.h>
#include <stdlib.h>

#include "array.h"
#include "check.h"
#include "glance.h"
#include "pulse.h"
#include "recover.h"
#include "store.h"

enum { TRIES = 100 };

typedef struct lk_follower {
    lk_registration *registration; /* NULL: the owner does not know of this reader */
    lk_lock lock;
    /* guarded by `lock` */
    lk_pulse_place pulse;
    lk_glance glance;
    lk_pulse seen; /* what it said when the last look began that found everything */
    bool has_seen;
    lk_view **held; /* replaced views; with a reference each */
    size_t held_count, held_capacity;
} lk_follower;

/* The segments of the next view, oldest first, with a reference each. */
typedef struct tails {
    lk_segment **segments;
    size_t count, capacity;
} tails;

/* ---- registration ---- */

lk_status lk_store_follow_begin(lk_store *s, lk_error *err)
{
    lk_follower *f = calloc(1, sizeof *f);
    if (f == NULL) return lk_fail_nomem(err, sizeof *f);
    lk_lock_init(&f->lock);
    s->follower = f;
    return lk_registration_new(s->env, s->dir, &f->registration, err);
}

bool lk_store_is_registered(const lk_store *s) { return s->follower->registration != NULL; }

/* The versions of the current view and of those that are still held. */
static lk_status pin_versions(lk_store *s, lk_error *err)
{
    lk_follower *f = s->follower;
    uint64_t versions[LK_PIN_VERSIONS_MAX + 1];
    size_t n = 0;
    if (f->registration == NULL) return LK_OK;
    lk_view *v = lk_store_view(s);
    versions[n++] = v->version->number;
    lk_view_unref(v);
    for (size_t i = 0; i < f->held_count && n <= LK_PIN_VERSIONS_MAX; i++) {
        versions[n++] = f->held[i]->version->number;
    }
    return lk_registration_pin(f->registration, versions, n, err);
}

static lk_status pin_everything(lk_store *s, lk_error *err)
{
    lk_follower *f = s->follower;
    return f->registration == NULL ? LK_OK : lk_registration_pin(f->registration, NULL, 0, err);
}

void lk_store_follow_start(lk_store *s)
{
    /* On a full disk, say. Everything stays pinned then: that keeps more files, and can be read. */
    (void)pin_versions(s, NULL);
}

void lk_store_follow_end(lk_store *s)
{
    lk_follower *f = s->follower;
    if (f == NULL) return;
    s->follower = NULL;
    for (size_t i = 0; i < f->held_count; i++) lk_view_unref(f->held[i]);
    free(f->held);
    lk_pulse_leave(&f->pulse);
    lk_glance_turn(&f->glance, NULL, false);
    lk_registration_free(f->registration);
    lk_lock_deinit(&f->lock);
    free(f);
}

/* ---- what the next view holds ---- */

static lk_status tails_add(tails *t, lk_segment *segment, lk_error *err)
{
    lk_status st = lk_array_grow(&t->segments, t->count, &t->capacity, sizeof(lk_segment *), err);
    if (st == LK_OK) t->segments[t->count++] = segment;
    return st;
}

static void tails_free(tails *t)
{
    for (size_t i = 0; i < t->count; i++) lk_segment_unref(t->segments[i]);
    free(t->segments);
}

/* Segments of the view that are not retired. */
static lk_status tails_keep(tails *t, const lk_view *v, uint64_t retired, lk_error *err)
{
    lk_status st = LK_OK;
    for (uint32_t i = v->segment_count; i-- > 0;) {
        lk_segment *segment = v->segments[i];
        if (segment->generation <= retired) continue;
        LK_TRY(tails_add(t, segment, err));
        lk_segment_ref(segment);
    }
done:
    return st;
}

/* The next segment of the log, read to its end; nothing when that file is not in use. */
static lk_status tails_open(lk_store *s, tails *t, uint64_t generation, lk_error *err)
{
    lk_status st = LK_OK;
    lk_segment *segment = NULL, *last = t->count > 0 ? t->segments[t->count - 1] : NULL;
    LK_TRY(lk_log_follow_open(s->env, s->dir, generation, last, &segment, err));
    if (segment == NULL) goto done;
    LK_TRY(lk_log_follow(segment, err));
    LK_TRY(tails_add(t, segment, err));
    segment = NULL;
done:
    lk_segment_unref(segment);
    return st;
}

/* ---- taking the place of the view ---- */

/* Room for one more view, so that replacing it cannot fail. */
static lk_status held_reserve(lk_follower *f, lk_error *err)
{
    return lk_array_grow(&f->held, f->held_count, &f->held_capacity, sizeof(lk_view *), err);
}

/* Views that no scan and no snapshot holds any more. */
static void held_sweep(lk_follower *f)
{
    size_t kept = 0;
    for (size_t i = 0; i < f->held_count; i++) {
        lk_view *v = f->held[i];
        if (atomic_load_explicit(&v->refs, memory_order_acquire) == 1) {
            lk_view_unref(v);
        } else {
            f->held[kept++] = v;
        }
    }
    f->held_count = kept;
}

static bool is_same_view(const lk_view *v, const tails *t, const lk_version *version,
                         const lk_settings *settings)
{
    if (v->version != version || v->settings != settings) return false;
    if (v->segment_count != t->count) return false;
    for (size_t i = 0; i < t->count; i++) {
        if (v->segments[t->count - 1 - i] != t->segments[i]) return false;
    }
    return true;
}

static void show(const tails *t)
{
    for (size_t i = 0; i < t->count; i++) lk_segment_show(t->segments[i]);
}

/* The last sequence that the view shows. */
static uint64_t view_seq(const lk_view *v)
{
    if (v->segment_count == 0) return v->last_seq;
    return v->segments[0]->base_seq + v->segments[0]->count - 1;
}

/* `settings` NULL: those that there are. */
static lk_status take_place(lk_store *s, const tails *t, lk_version *version, lk_settings *settings,
                            lk_error *err)
{
    lk_status st = LK_OK;
    lk_follower *f = s->follower;
    lk_view *v = NULL;
    lk_segment **newest_first = malloc((t->count + 1) * sizeof(lk_segment *));
    if (newest_first == NULL) return lk_fail_nomem(err, t->count * sizeof(lk_segment *));
    for (size_t i = 0; i < t->count; i++) newest_first[i] = t->segments[t->count - 1 - i];
    lk_lock_acquire(&s->view_lock);
    lk_view *old = atomic_load_explicit(&s->view, memory_order_relaxed);
    if (settings == NULL) settings = old->settings;
    if (is_same_view(old, t, version, settings)) {
        show(t);
        goto done;
    }
    LK_TRY(held_reserve(f, err));
    v = lk_view_new(newest_first, (uint32_t)t->count, version, settings);
    if (v == NULL) {
        st = lk_fail_nomem(err, sizeof *v);
        goto done;
    }
    v->last_seq = lk_manifest_last_seq(s->manifest);
    v->gaps = old->gaps;
    show(t);
    /* The log does not tell of what comes in tables. */
    if (v->gaps != NULL) lk_gap_memory_forget(v->gaps, view_seq(v));
    atomic_store_explicit(&s->view, v, memory_order_seq_cst);
    f->held[f->held_count++] = old;
done:
    lk_lock_release(&s->view_lock);
    free(newest_first);
    if (v != NULL) {
        lk_guard_sync(&s->guard);
        held_sweep(f);
    }
    return st;
}

/* ---- moving on ---- */

/* Begins with what the current view has of the log behind `retired`, read to its end. */
static lk_status tails_begin(lk_store *s, tails *t, uint64_t retired, lk_error *err)
{
    lk_view *v = lk_store_view(s);
    lk_status st = tails_keep(t, v, retired, err);
    if (st == LK_OK && t->count > 0) st = lk_log_follow(t->segments[t->count - 1], err);
    lk_view_unref(v);
    return st;
}

/* No edit since the last look: only the log has grown. */
static lk_status move_log(lk_store *s, const lk_pulse *now, lk_error *err)
{
    lk_status st = LK_OK;
    tails t = {NULL, 0, 0};
    lk_version *version = lk_manifest_version(s->manifest);
    LK_TRY(tails_begin(s, &t, 0, err));
    for (uint64_t g = s->follower->seen.generation + 1; g <= now->generation; g++) {
        st = tails_open(s, &t, g, err);
        /* A number may have been given to a file that was not needed, but not the last one. */
        if (st == LK_NOT_FOUND && g != now->generation) st = LK_OK;
        if (st != LK_OK) goto done;
    }
    LK_TRY(take_place(s, &t, version, NULL, err));
done:
    lk_version_unref(version);
    tails_free(&t);
    return st;
}

/* The log goes on where the tables end. */
static lk_status begin_check(const lk_store *s, const tails *t, uint64_t last_seq, lk_error *err)
{
    if (t->count == 0 || t->segments[0]->base_seq <= last_seq + 1) return LK_OK;
    return lk_fail_corrupt(err, lk_file_path(t->segments[0]->file), 24, last_seq + 1,
                           t->segments[0]->base_seq, "%s: the log before it is missing", s->dir);
}

/* What the owner has flushed since the last look, and keeps. */
static lk_status history_move(lk_store *s, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t *generations = NULL, retired = lk_manifest_log_retired(s->manifest);
    size_t count = 0;
    bool is_history;
    lk_past newest = {.generation = 0};
    if (s->history.bytes_max == 0) return LK_OK;
    (void)lk_history_find(&s->history, LK_SEQ_MAX, &newest);
    LK_TRY(lk_log_list(s->env, s->dir, newest.generation, &generations, &count, err));
    for (size_t i = 0; i < count && generations[i] <= retired; i++) {
        LK_TRY(lk_history_adopt(&s->history, s->env, s->dir, generations[i], &is_history, err));
    }
done:
    free(generations);
    return st;
}

static lk_status move_all(lk_store *s, bool *out_properties, lk_error *err)
{
    lk_status st = LK_OK;
    tails t = {NULL, 0, 0};
    uint64_t *generations = NULL;
    size_t count = 0;
    lk_version *version = NULL;
    LK_TRY(lk_manifest_follow(s->manifest, out_properties, err));
    if (*out_properties) LK_TRY(lk_store_reload_trees(s, err));
    version = lk_manifest_version(s->manifest);
    uint64_t after = lk_manifest_log_retired(s->manifest);
    if (!lk_store_is_registered(s)) LK_TRY(lk_store_tables_hold(version, err));
    LK_TRY(tails_begin(s, &t, after, err));
    if (t.count > 0) after = t.segments[t.count - 1]->generation;
    LK_TRY(lk_log_list(s->env, s->dir, after, &generations, &count, err));
    for (size_t i = 0; i < count; i++) LK_TRY(tails_open(s, &t, generations[i], err));
    LK_TRY(begin_check(s, &t, lk_manifest_last_seq(s->manifest), err));
    LK_TRY(history_move(s, err));
    LK_TRY(take_place(s, &t, version, NULL, err));
done:
    lk_version_unref(version);
    free(generations);
    tails_free(&t);
    return st;
}

static lk_status refresh_once(lk_store *s, bool *out_properties, lk_error *err)
{
    lk_status st = LK_OK;
    lk_follower *f = s->follower;
    lk_pulse now;
    bool known;
    LK_TRY(lk_pulse_read(&f->pulse, s->env, s->dir, s->mapped, &now, &known, err));
    if (known && f->has_seen && now.owner == f->seen.owner && now.edits == f->seen.edits) {
        LK_TRY(move_log(s, &now, err));
    } else {
        LK_TRY(pin_everything(s, err));
        st = move_all(s, out_properties, err);
        /* What cannot be pinned less stays pinned: that keeps more files, and harms no reader. */
        (void)pin_versions(s, NULL);
    }
    if (st == LK_OK) {
        f->seen = now;
        f->has_seen = known;
    }
done:
    return st;
}

/* Whether a look finds anything that was not there at the last one. */
static bool is_behind(lk_store *s)
{
    lk_follower *f = s->follower;
    lk_pulse now;
    bool known;
    lk_view *v = lk_store_view(s);
    bool has_log = v->segment_count > 0;
    lk_glance_turn(&f->glance, has_log ? v->segments[0] : NULL, s->mapped);
    lk_view_unref(v);
    if (has_log && lk_glance_has_more(&f->glance)) return true;
    /* Behind the look at the log: what has been read there was no file used again. */
    lk_status st = lk_pulse_read(&f->pulse, s->env, s->dir, s->mapped, &now, &known, NULL);
    return st != LK_OK || !known || !f->has_seen || !lk_pulse_equal(&now, &f->seen);
}

lk_status lk_store_follow_set_tree(lk_store *s, const lk_tree_settings *tree, lk_error *err)
{
    lk_status st = LK_OK;
    tails t = {NULL, 0, 0};
    lk_settings *settings = NULL;
    lk_lock_acquire(&s->follower->lock);
    lk_view *v = lk_store_view(s);
    LK_TRY(lk_settings_with(v->settings, tree, &settings, err));
    LK_TRY(tails_keep(&t, v, 0, err));
    LK_TRY(take_place(s, &t, v->version, settings, err));
done:
    lk_lock_release(&s->follower->lock);
    lk_settings_unref(settings);
    tails_free(&t);
    lk_view_unref(v);
    return st;
}

static uint64_t last_seq(lk_store *s)
{
    uint64_t seq;
    lk_view_unref(lk_store_view_now(s, &seq));
    return seq;
}

lk_status lk_store_refresh(lk_store *s, bool *out_moved, lk_error *err)
{
    lk_status st = LK_OK;
    lk_follower *f = s->follower;
    lk_error why = {0};
    char before[LK_MESSAGE_MAX] = "";
    bool properties = false, more;
    *out_moved = false;
    if (f == NULL) return LK_OK;
    lk_lock_acquire(&f->lock);
    uint64_t from = last_seq(s);
    for (int i = 0; i < TRIES && is_behind(s); i++) {
        more = false;
        st = refresh_once(s, &more, &why);
        properties = properties || more;
        if (st != LK_OK) f->has_seen = false;
        if (st != LK_CORRUPT && st != LK_NOT_FOUND) break;
        if (strcmp(before, why.message) == 0) break;
        (void)snprintf(before, sizeof before, "%s", why.message);
    }
    size_t held = f->held_count;
    held_sweep(f);
    if (f->held_count < held) (void)pin_versions(s, NULL);
    *out_moved = st == LK_OK && (properties || last_seq(s) != from);
    lk_lock_release(&f->lock);
    if (st != LK_OK && err != NULL) *err = why;
    return st;
}

bool lk_store_is_behind(lk_store *s)
{
    lk_follower *f = s->follower;
    if (f == NULL) return false;
    if (!lk_lock_try(&f->lock)) return true;
    bool behind = is_behind(s);
    lk_lock_release(&f->lock);
    return behind;
}
