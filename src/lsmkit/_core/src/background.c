/* background.c: what a store's workers do, flush and compact, and the publishing of what they made.
 *
 * Workers take a waiting flush first; a flush with its manifest edit and its new view is one job, and
 * so is a compaction. The keeper, the other thread, is in keeper.c.
 *
 * Owns      the threads, the queue of jobs and their reports.
 * Threads   queue_mutex guards the queue; edit_lock orders edits, so that views follow the manifest.
 * Errors    a failed job is kept in background_error, counted, and told to who waits for it; a
 *           failed flush is tried again after a pause.
 */
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "flush.h"
#include "pulse.h"
#include "store.h"

#define HOT_SEGMENTS 4u     /* so much of flushed log counts as written lately */
#define RETRY_NS 200000000u /* pause after a failed flush */
#define RETRY_AT_ONCE 1u    /* a time that is over: a flush has failed, and is due again */

typedef struct lk_store_job {
    struct lk_store_job *next;
    lk_job job;
    lk_job_report report;
} lk_store_job;

/* ---- views ---- */

/* `fresh` takes the place of `old`, which goes into limbo; flushed segments become history or go onto
 * the retired list. view_lock is held. False: limbo is full, and the caller frees `old` itself. */
static bool view_swap(lk_store *s, lk_view *old, uint64_t flushed, lk_view *fresh)
{
    for (uint32_t i = 0; i < old->segment_count; i++) {
        lk_segment *segment = old->segments[i];
        if (segment->generation > flushed || lk_history_add(&s->history, segment)) continue;
        if (s->retired_count < sizeof s->retired / sizeof *s->retired) {
            lk_segment_ref(segment);
            s->retired[s->retired_count++] = segment;
        }
    }
    /* After that: what no view shows any more must be found in the history. */
    atomic_store_explicit(&s->view, fresh, memory_order_seq_cst);
    if (s->limbo_count == sizeof s->limbo / sizeof *s->limbo) return false;
    s->limbo[s->limbo_count++] = old;
    return true;
}

/* As lk_store_install; `tree` (may be NULL) has these settings from now on. */
static lk_status view_replace(lk_store *s, lk_version *version, uint64_t flushed, lk_segment *fresh,
                              const lk_tree_settings *tree, lk_error *err)
{
    lk_settings *settings = NULL;
    lk_lock_acquire(&s->view_lock);
    lk_view *old = atomic_load_explicit(&s->view, memory_order_relaxed);
    if (tree != NULL) {
        lk_status st = lk_settings_with(old->settings, tree, &settings, err);
        if (st != LK_OK) {
            lk_lock_release(&s->view_lock);
            return st;
        }
    }
    uint32_t n = 0;
    lk_view *v = NULL;
    lk_segment **kept = malloc((old->segment_count + 1) * sizeof *kept);
    if (kept != NULL) {
        if (fresh != NULL) kept[n++] = fresh;
        for (uint32_t i = 0; i < old->segment_count; i++) {
            if (old->segments[i]->generation > flushed) kept[n++] = old->segments[i];
        }
        v = lk_view_new(kept, n, version != NULL ? version : old->version,
                        settings != NULL ? settings : old->settings);
        free(kept);
    }
    lk_settings_unref(settings);
    bool parked = true;
    if (v != NULL) {
        /* With the version that holds it, so that no reader has the one without the other. */
        v->last_seq = version != NULL ? lk_manifest_last_seq(s->manifest) : old->last_seq;
        v->gaps = &s->gaps;
        parked = view_swap(s, old, flushed, v);
    }
    lk_lock_release(&s->view_lock);
    if (v == NULL) return lk_fail_nomem(err, sizeof *v);
    if (!parked) {
        lk_guard_sync(&s->guard);
        lk_view_unref(old);
    }
    lk_event_signal(&s->keeper_event);
    return LK_OK;
}

lk_status lk_store_edit(lk_store *s, const lk_edit *edit, lk_version **out, lk_error *err)
{
    LK_ASSERT(lk_lock_is_held(&s->edit_lock));
    lk_version *version = NULL, *old = lk_manifest_version(s->manifest);
    lk_status st = lk_manifest_append(s->manifest, edit, &version, err);
    if (st == LK_OK) {
        if (s->pulse != NULL) (void)lk_pulse_edits(s->pulse, version->number, NULL);
        lk_readers_hold(&s->readers, old);
    }
    lk_version_unref(old);
    if (out != NULL) {
        *out = version;
    } else {
        lk_version_unref(version);
    }
    return st;
}

lk_status lk_store_install(lk_store *s, lk_version *version, uint64_t flushed, lk_segment *fresh,
                           lk_error *err)
{
    return view_replace(s, version, flushed, fresh, NULL, err);
}

lk_status lk_store_set_tree(lk_store *s, const lk_tree_settings *tree, lk_error *err)
{
    /* What readers of other processes still hold is to be known to the owner. */
    if (s->follower != NULL) return lk_store_follow_set_tree(s, tree, err);
    return view_replace(s, NULL, 0, NULL, tree, err);
}

lk_status lk_store_set_property(lk_store *s, const char *name, const char *value, lk_error *err)
{
    lk_edit edit;
    lk_edit_init(&edit);
    lk_status st = lk_edit_set(&edit, name, value, err);
    if (st == LK_OK) {
        lk_lock_acquire(&s->edit_lock);
        st = lk_store_edit(s, &edit, NULL, err);
        lk_lock_release(&s->edit_lock);
    }
    lk_edit_deinit(&edit);
    return st;
}

/* ---- flush ---- */

/* What is frozen, oldest first, with a reference to the view that holds it, and the wall clock as
 * lk_store_view_then reads it. */
static lk_view *frozen_segments(lk_store *s, lk_segment **out, uint32_t *out_count,
                                uint64_t *out_now_us)
{
    lk_lock_acquire(&s->write_lock);
    lk_view *v = lk_store_view(s);
    lk_segment *active = s->active;
    *out_now_us = lk_env_wall_us(s->env);
    lk_lock_release(&s->write_lock);
    uint32_t n = 0;
    for (uint32_t i = v->segment_count; i-- > 0 && n < LK_FLUSH_SEGMENTS_MAX;) {
        if (v->segments[i] != active) out[n++] = v->segments[i];
    }
    *out_count = n;
    return v;
}

lk_status lk_store_publish_locked(lk_store *s, lk_edit *edit, lk_error *err)
{
    lk_version *version = NULL;
    uint64_t *snapshots = NULL;
    LK_ASSERT(lk_lock_is_held(&s->edit_lock));
    lk_store_strip(s, edit);
    pthread_mutex_lock(&s->sync_mutex);
    if (s->durable_end != UINT32_MAX) {
        edit->durable_generation = s->durable_generation;
        edit->durable_end = s->durable_end;
    }
    pthread_mutex_unlock(&s->sync_mutex);
    lk_status st = lk_store_snapshots(s, &snapshots, &edit->snapshots.count, err);
    edit->snapshots.seqs = snapshots;
    if (st == LK_OK) st = lk_store_edit(s, edit, &version, err);
    if (st == LK_OK) st = lk_store_install(s, version, edit->log_retired, NULL, err);
    edit->snapshots = (lk_snapshots){NULL, 0};
    free(snapshots);
    lk_version_unref(version);
    return st;
}

lk_status lk_store_publish(lk_store *s, lk_edit *edit, lk_error *err)
{
    lk_error failed = {0};
    lk_lock_acquire(&s->edit_lock);
    lk_status st = lk_store_publish_locked(s, edit, &failed);
    lk_lock_release(&s->edit_lock);
    /* Whether the edit is on the disk is not known, so what it names must stay, and nothing more can
     * be published: trying again would only leave one more table behind. */
    if (st == LK_IO) lk_store_fail(s, &failed);
    if (st != LK_OK && err != NULL) *err = failed;
    return st;
}

static void flush_count(lk_store *s, const lk_flush_result *r, uint64_t ns)
{
    lk_store_counters *c = &s->counters;
    atomic_fetch_add_explicit(&c->flushes, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->flush_records, r->records_in, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->flush_bytes, r->bytes_out, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->flush_ns, ns, memory_order_relaxed);
}

/* Operands that an operator could not fold are all still there: it is told, and nothing else. */
static void note_merge_failures(lk_store *s, uint64_t failures, const lk_error *first)
{
    if (failures == 0) return;
    pthread_mutex_lock(&s->queue_mutex);
    s->merge_error = *first;
    s->background_errors += failures;
    pthread_mutex_unlock(&s->queue_mutex);
}

lk_table_options lk_store_table_options(lk_store *s, const lk_tree_shape *shape)
{
    return (lk_table_options){
        .block_bytes = shape->block_bytes,
        .filter_bits = shape->filter_bits,
        .codec = shape->codec,
        .blob_bytes = shape->blob_bytes,
        .limiter = s->options.rate_limit != 0 ? &s->limiter : NULL,
        .cancel = &s->cancel,
        .held = &s->writers_bytes,
    };
}

/* A frozen segment is read-only: a stray store faults instead of changing what readers and the flush
 * take from it. What was detached after a failed sync stays as it is. */
static lk_status segment_protect(lk_store *s, lk_segment *segment, lk_error *err)
{
    if (!segment->mapped || segment->recovered || lk_store_failure(s, NULL) != LK_OK) return LK_OK;
    return lk_env_protect(s->env, segment->base, segment->memory_bytes, err);
}

/* Readers take what is proved without a lock from then on. A write may have installed such a view
 * already. */
static lk_status segments_prove(lk_store *s, const lk_view *v, lk_error *err)
{
    lk_status st = lk_view_prove(v, err);
    if (st == LK_OK && v->unproved) st = lk_store_install(s, NULL, 0, NULL, err);
    if (st == LK_OK) atomic_store(&s->unproved, false);
    return st;
}

static void hot_note(lk_store *s, lk_flush_work *w)
{
    lk_hot_flush flush = {
        .first = w->segments[0]->generation,
        .generation = w->segments[w->count - 1]->generation,
        .tops = w->result.tops,
    };
    for (uint32_t i = 0; i < w->count; i++) flush.bytes += w->segments[i]->tail;
    lk_hot_add(&s->hot, &flush, HOT_SEGMENTS * s->options.segment_bytes);
    w->result.tops = NULL;
}

/* What becomes history is on the disk when the tables are: nobody syncs it later. */
static lk_status history_sync(lk_store *s, const lk_flush_work *w, lk_error *err)
{
    for (uint32_t i = 0; i < w->count && s->history.bytes_max > 0; i++) {
        lk_error failed = {0};
        lk_status st = lk_file_datasync(w->segments[i]->file, &failed);
        if (st == LK_OK) continue;
        lk_store_fail(s, &failed); /* as of every failed sync of the log */
        if (err != NULL) *err = failed;
        return st;
    }
    return LK_OK;
}

void lk_store_trim_history(lk_store *s, uint64_t bytes_max)
{
    lk_past past;
    while (!s->options.read_only && lk_history_pop(&s->history, bytes_max, &past)) {
        char path[LK_PATH_MAX];
        lk_segment_path(s->dir, past.generation, path, sizeof path);
        (void)lk_env_unlink(s->env, path, NULL);
    }
}

lk_status lk_store_flush_tables(lk_store *s, lk_flush_work *w, lk_edit *edit, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t *snapshots = NULL, now_us, log_bytes = 0;
    w->started_ns = lk_env_now_ns(s->env);
    w->view = frozen_segments(s, w->segments, &w->count, &now_us);
    /* Behind the segments: a keyspace that has records in them was known before they were frozen. */
    lk_trees *trees = lk_store_trees(s);
    if (w->count == 0) goto done;
    for (uint32_t i = 0; i < w->count; i++) log_bytes += w->segments[i]->tail;
    lk_pace_flush_began(s, w->started_ns, log_bytes);
    LK_TRY(segments_prove(s, w->view, err));
    lk_flush f = {
        .env = s->env,
        .dir = s->dir,
        .manifest = s->manifest,
        .view = w->view,
        .now_us = now_us,
        .trees = trees,
        .segments = w->segments,
        .segment_count = w->count,
        .table = lk_store_table_options(s, &trees->shape),
    };
    f.table.cancel = NULL; /* a close wants it done */
    for (uint32_t i = 0; i < w->count; i++) LK_TRY(segment_protect(s, w->segments[i], err));
    LK_TRY(history_sync(s, w, err));
    LK_TRY(lk_store_snapshots(s, &snapshots, &f.snapshot_count, err));
    f.snapshots = snapshots;
    LK_TRY(lk_flush_run(&f, edit, &w->result, err));
    hot_note(s, w);
done:
    free(snapshots);
    lk_trees_unref(trees);
    if (st != LK_OK) lk_store_flush_end(s, w, false);
    return st;
}

void lk_store_flush_end(lk_store *s, lk_flush_work *w, bool published)
{
    uint32_t n = w->count;
    if (published && n > 0) {
        flush_count(s, &w->result, lk_env_now_ns(s->env) - w->started_ns);
        note_merge_failures(s, w->result.merge_failures, &w->result.merge_failure);
        atomic_store_explicit(&s->flushed_generation, w->segments[n - 1]->generation,
                              memory_order_release);
        for (uint32_t i = 0; i < n; i++) {
            if (w->segments[i]->recovered) atomic_fetch_sub(&s->recovered_left, 1);
        }
        atomic_fetch_sub_explicit(&s->frozen, n, memory_order_release);
        lk_store_trim_history(s, s->history.bytes_max);
    }
    if (n > 0) {
        lk_pace_flush_ended(s, lk_env_now_ns(s->env), published);
        lk_event_broadcast(&s->changed);
    }
    lk_view_unref(w->view);
    w->view = NULL;
    w->count = 0;
}

lk_status lk_store_flush_now(lk_store *s, lk_error *err)
{
    lk_edit edit;
    lk_flush_work work;
    lk_edit_init(&edit);
    lk_status st = lk_store_flush_tables(s, &work, &edit, err);
    if (st == LK_OK) {
        if (work.count > 0) st = lk_store_publish(s, &edit, err);
        lk_store_flush_end(s, &work, st == LK_OK);
    }
    lk_edit_deinit(&edit);
    return st;
}

void lk_store_flush_claim(lk_store *s)
{
    for (;;) {
        uint64_t seen = lk_event_generation(&s->changed);
        pthread_mutex_lock(&s->queue_mutex);
        bool mine = !s->flushing;
        s->flushing = true;
        pthread_mutex_unlock(&s->queue_mutex);
        if (mine) return;
        (void)lk_event_wait_ns(&s->changed, seen, LK_EVENT_FOREVER);
    }
}

void lk_store_flush_release(lk_store *s)
{
    pthread_mutex_lock(&s->queue_mutex);
    s->flushing = false;
    pthread_cond_broadcast(&s->queue_cond);
    pthread_mutex_unlock(&s->queue_mutex);
    lk_event_broadcast(&s->changed);
    lk_event_broadcast(&s->decide);
}

/* Whoever asks for a flush is not told of a failure of the past: the disk may have room by now. */
static void flush_retry_now(lk_store *s)
{
    pthread_mutex_lock(&s->queue_mutex);
    if (s->flush_retry_ns != 0) s->flush_retry_ns = RETRY_AT_ONCE;
    pthread_mutex_unlock(&s->queue_mutex);
    lk_event_broadcast(&s->changed);
}

lk_status lk_store_flush(lk_store *s, lk_error *err)
{
    uint64_t generation;
    if (s->options.read_only) return LK_OK;
    lk_store_freeze(s, &generation);
    flush_retry_now(s);
    for (;;) {
        uint64_t seen = lk_event_generation(&s->changed);
        if (atomic_load_explicit(&s->frozen, memory_order_acquire) == 0) return LK_OK;
        if (generation != 0 &&
            atomic_load_explicit(&s->flushed_generation, memory_order_acquire) >= generation) {
            return LK_OK;
        }
        lk_status st = lk_store_failure(s, err);
        if (st != LK_OK) return st;
        pthread_mutex_lock(&s->queue_mutex);
        if (s->background_error.code != LK_OK && s->flush_retry_ns > RETRY_AT_ONCE) {
            st = s->background_error.code;
            if (err != NULL) *err = s->background_error;
        }
        pthread_mutex_unlock(&s->queue_mutex);
        if (st != LK_OK) return st;
        (void)lk_event_wait_ns(&s->changed, seen, 100000000);
    }
}

/* ---- compaction ---- */

static void job_free(lk_store_job *j)
{
    if (j == NULL) return;
    free((void *)(uintptr_t)j->job.lower.data);
    free((void *)(uintptr_t)j->job.files);
    free(j);
}

lk_status lk_store_submit(lk_store *s, const lk_job *job, uint64_t *out_id, lk_error *err)
{
    lk_store_job *j = calloc(1, sizeof *j);
    uint8_t *lower = malloc(job->lower.len + 1);
    uint64_t *files = malloc((job->file_count + 1) * sizeof *files);
    if (j == NULL || lower == NULL || files == NULL) {
        free(j);
        free(lower);
        free(files);
        return lk_fail_nomem(err, sizeof *j + job->lower.len + job->file_count * sizeof *files);
    }
    if (job->lower.len != 0) memcpy(lower, job->lower.data, job->lower.len);
    if (job->file_count != 0) memcpy(files, job->files, job->file_count * sizeof *files);
    j->job = *job;
    j->job.lower.data = lower;
    j->job.files = files;
    lk_trees *trees = lk_store_trees(s);
    j->job.max_garbage = s->options.max_garbage;
    j->job.table = lk_store_table_options(s, lk_trees_shape(trees, job->tree));
    j->job.table.codec = job->table.codec;
    lk_trees_unref(trees);
    pthread_mutex_lock(&s->queue_mutex);
    j->report.id = *out_id = ++s->next_job;
    if (s->jobs_tail != NULL) {
        s->jobs_tail->next = j;
    } else {
        s->jobs = j;
    }
    s->jobs_tail = j;
    s->jobs_queued++;
    pthread_cond_broadcast(&s->queue_cond);
    pthread_mutex_unlock(&s->queue_mutex);
    return LK_OK;
}

static void compact_count(lk_store *s, const lk_job *job, const lk_job_result *r)
{
    lk_store_counters *c = &s->counters;
    if (job->kind != LK_JOB_MERGE) {
        atomic_fetch_add_explicit(&c->moves, 1, memory_order_relaxed);
        return;
    }
    atomic_fetch_add_explicit(&c->compactions, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->compact_in, r->bytes_in, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->compact_out, r->bytes_out, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->compact_rows, r->rows_in, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->compact_ns, r->ns, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->rows_copied, r->rows_copied, memory_order_relaxed);
}

static bool is_dropped(lk_store *s, uint32_t tree)
{
    /* A drop under way has perhaps taken the tree's tables, and the tree not yet. */
    lk_lock_acquire(&s->edit_lock);
    bool has = lk_trees_has(s->trees, tree);
    lk_lock_release(&s->edit_lock);
    return !has;
}

static lk_status job_run(lk_store *s, const lk_job *job, lk_job_result *result, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t *snapshots = NULL;
    size_t snapshot_count = 0;
    lk_edit edit;
    lk_edit_init(&edit);
    uint64_t now_us;
    lk_view *v = lk_store_view_then(s, &now_us);
    LK_TRY(lk_store_snapshots(s, &snapshots, &snapshot_count, err));
    st = lk_compact_run(s->env, s->dir, s->manifest, v, now_us, job, snapshots, snapshot_count,
                        &edit, result, err);
    if (st == LK_INVALID && job->kind == LK_JOB_JOIN) {
        /* A flush came into the range since it was seen empty: there is nothing to join. */
        st = LK_OK;
        goto done;
    }
    if (st == LK_INVALID && is_dropped(s, job->tree)) {
        st = LK_OK;
        goto done;
    }
    if (st != LK_OK) goto done;
    if (edit.add_count > 0 && job->kind == LK_JOB_MERGE) {
        LK_TRY(lk_env_sync_dir(s->env, s->dir, err));
    }
    LK_TRY(lk_store_publish(s, &edit, err));
    compact_count(s, job, result);
    note_merge_failures(s, result->merge_failures, &result->merge_failure);
done:
    free(snapshots);
    lk_edit_deinit(&edit);
    lk_view_unref(v);
    return st;
}

bool lk_store_take_report(lk_store *s, lk_job_report *out)
{
    pthread_mutex_lock(&s->queue_mutex);
    lk_store_job *j = s->done;
    if (j != NULL) {
        s->done = j->next;
        *out = j->report;
    }
    pthread_mutex_unlock(&s->queue_mutex);
    job_free(j);
    return j != NULL;
}

uint32_t lk_store_free_workers(lk_store *s)
{
    pthread_mutex_lock(&s->queue_mutex);
    uint32_t busy = s->jobs_queued + s->jobs_running;
    uint32_t slots = s->worker_count > 1 ? s->worker_count - 1 : s->worker_count;
    pthread_mutex_unlock(&s->queue_mutex);
    return busy >= slots ? 0 : slots - busy;
}

bool lk_store_is_quiet(lk_store *s)
{
    pthread_mutex_lock(&s->queue_mutex);
    bool quiet = s->jobs_queued == 0 && s->jobs_running == 0 && !s->flushing && s->done == NULL;
    pthread_mutex_unlock(&s->queue_mutex);
    return quiet && atomic_load_explicit(&s->frozen, memory_order_acquire) == 0;
}

uint64_t lk_store_background_errors(lk_store *s, lk_error *out)
{
    pthread_mutex_lock(&s->queue_mutex);
    *out = s->background_error.code != LK_OK ? s->background_error : s->merge_error;
    uint64_t n = s->background_errors;
    pthread_mutex_unlock(&s->queue_mutex);
    return n;
}

/* ---- workers ---- */

void lk_store_wake(lk_store *s)
{
    pthread_mutex_lock(&s->queue_mutex);
    pthread_cond_broadcast(&s->queue_cond);
    pthread_mutex_unlock(&s->queue_mutex);
}

static void remember_error(lk_store *s, const lk_error *e)
{
    s->background_error = *e;
    s->background_errors++;
}

/* queue_mutex is held, and given up while the flush runs. */
static void worker_flush(lk_store *s)
{
    lk_error err = {0};
    s->flushing = true;
    pthread_mutex_unlock(&s->queue_mutex);
    lk_status st = lk_store_flush_now(s, &err);
    pthread_mutex_lock(&s->queue_mutex);
    s->flushing = false;
    if (st == LK_OK) {
        if (s->flush_retry_ns != 0) memset(&s->background_error, 0, sizeof s->background_error);
        s->flush_retry_ns = 0;
    } else {
        remember_error(s, &err);
        s->flush_retry_ns = lk_env_now_ns(s->env) + RETRY_NS;
    }
    pthread_cond_broadcast(&s->queue_cond);
    lk_event_broadcast(&s->changed);
    lk_event_broadcast(&s->decide);
}

/* As above. */
static void worker_job(lk_store *s)
{
    lk_store_job *j = s->jobs;
    lk_error err = {0};
    s->jobs = j->next;
    if (s->jobs == NULL) s->jobs_tail = NULL;
    j->next = NULL;
    s->jobs_queued--;
    s->jobs_running++;
    pthread_mutex_unlock(&s->queue_mutex);
    j->report.status = job_run(s, &j->job, &j->report.result, &err);
    bool named = err.path[0] == 0 || strstr(err.message, err.path) != NULL;
    (void)snprintf(j->report.message, sizeof j->report.message, "%.255s%s%.250s",
                   named ? "" : err.path, named ? "" : ": ", err.message);
    pthread_mutex_lock(&s->queue_mutex);
    s->jobs_running--;
    if (j->report.status != LK_OK && j->report.status != LK_CANCELLED) remember_error(s, &err);
    lk_store_job **at = &s->done;
    while (*at != NULL) at = &(*at)->next;
    *at = j;
    pthread_cond_broadcast(&s->queue_cond);
    lk_event_broadcast(&s->changed);
    lk_event_broadcast(&s->decide);
}

static bool flush_is_due(lk_store *s)
{
    if (s->flushing || atomic_load_explicit(&s->frozen, memory_order_acquire) == 0) return false;
    if (atomic_load_explicit(&s->failed, memory_order_acquire) != 0) return false;
    return s->flush_retry_ns == 0 || lk_env_now_ns(s->env) >= s->flush_retry_ns;
}

/* Sleeps until woken, or until a failed flush may be tried again. queue_mutex is held. */
static void worker_wait(lk_store *s)
{
    if (s->flush_retry_ns == 0) {
        pthread_cond_wait(&s->queue_cond, &s->queue_mutex);
        return;
    }
    pthread_mutex_unlock(&s->queue_mutex);
    (void)lk_event_wait_ns(&s->changed, lk_event_generation(&s->changed), RETRY_NS / 4);
    pthread_mutex_lock(&s->queue_mutex);
}

static void *worker_main(void *arg)
{
    lk_store *s = arg;
    pthread_mutex_lock(&s->queue_mutex);
    while (!s->stopping) {
        /* Of several workers one stays free for the flush that writers wait for. */
        bool may_compact = s->worker_count == 1 || s->jobs_running + 1 < s->worker_count;
        if (flush_is_due(s)) {
            worker_flush(s);
        } else if (s->jobs != NULL && may_compact) {
            worker_job(s);
        } else {
            worker_wait(s);
        }
    }
    pthread_mutex_unlock(&s->queue_mutex);
    return NULL;
}

/* ---- start and stop ---- */

lk_status lk_store_start(lk_store *s, lk_error *err)
{
    lk_status st = lk_thread_start(lk_store_keep, s, &s->keeper, "lsmkit-keeper", err);
    if (st != LK_OK) return st;
    s->keeper_running = true;
    uint32_t n = s->options.background_threads;
    uint32_t most = sizeof s->workers / sizeof *s->workers;
    if (n == 0) n = 1;
    if (n > most) n = most;
    s->worker_count = n;
    for (uint32_t i = 0; i < n; i++) {
        st = lk_thread_start(worker_main, s, &s->workers[i], "lsmkit-worker", err);
        if (st != LK_OK) {
            s->worker_count = i;
            return st;
        }
    }
    return LK_OK;
}

void lk_store_stop(lk_store *s)
{
    pthread_mutex_lock(&s->queue_mutex);
    s->stopping = true;
    atomic_store(&s->cancel, true);
    pthread_cond_broadcast(&s->queue_cond);
    pthread_mutex_unlock(&s->queue_mutex);
    lk_event_broadcast(&s->keeper_event);
    lk_event_broadcast(&s->changed);
    for (uint32_t i = 0; i < s->worker_count; i++) pthread_join(s->workers[i], NULL);
    if (s->keeper_running) pthread_join(s->keeper, NULL);
    s->worker_count = 0;
    s->keeper_running = false;
    lk_store_keep_nothing(s);
    while (s->jobs != NULL || s->done != NULL) {
        lk_store_job **from = s->jobs != NULL ? &s->jobs : &s->done;
        lk_store_job *j = *from;
        *from = j->next;
        job_free(j);
    }
    s->jobs_tail = NULL;
    s->jobs_queued = 0;
}
