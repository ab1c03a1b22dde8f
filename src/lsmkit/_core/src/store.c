/* store.c: opening and closing a store, and the views and snapshots that readers take.
 *
 * Threads   the registry of open stores is guarded by its own mutex; pthread_atfork marks them all
 *           in a child process, where no handle may be used: threads, locks and mappings stayed
 *           with the parent.
 */
#include "store.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "file_names.h"
#include "manifest_file.h"
#include "manifest_json.h"
#include "pulse.h"
#include "recover.h"

/* ---- fork ---- */

static pthread_mutex_t registry_mutex = PTHREAD_MUTEX_INITIALIZER;
static lk_store *registry;

static void fork_prepare(void) { pthread_mutex_lock(&registry_mutex); }
static void fork_parent(void) { pthread_mutex_unlock(&registry_mutex); }
static void fork_child(void)
{
    for (lk_store *s = registry; s != NULL; s = s->registry_next) {
        atomic_store_explicit(&s->state, LK_STATE_FORKED, memory_order_relaxed);
        s->limit = 0;
        /* The parent's writer may have been inside: nobody will release it here. */
        atomic_store_explicit(&s->write_lock.state, LK_LOCK_FREE, memory_order_relaxed);
    }
    registry = NULL;
    pthread_mutex_unlock(&registry_mutex);
}
static void fork_watch(void) { (void)pthread_atfork(fork_prepare, fork_parent, fork_child); }

static void registry_add(lk_store *s)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fork_watch);
    pthread_mutex_lock(&registry_mutex);
    s->registry_next = registry;
    registry = s;
    pthread_mutex_unlock(&registry_mutex);
}

static void registry_remove(lk_store *s)
{
    pthread_mutex_lock(&registry_mutex);
    for (lk_store **at = &registry; *at != NULL; at = &(*at)->registry_next) {
        if (*at != s) continue;
        *at = s->registry_next;
        break;
    }
    pthread_mutex_unlock(&registry_mutex);
}

/* ---- calls ---- */

lk_status lk_store_closed_error(const lk_store *s, lk_error *err)
{
    bool forked = atomic_load_explicit(&s->state, memory_order_relaxed) == LK_STATE_FORKED;
    return lk_fail(err, LK_CLOSED, 0, s->dir, 0, 0, 0,
                   forked ? "%s: the store was opened by the parent process; open it again here"
                          : "%s: the store is closed",
                   s->dir);
}

lk_status lk_store_enter(lk_store *s, lk_error *err)
{
    atomic_fetch_add_explicit(&s->inside, 1, memory_order_seq_cst);
    if (LK_LIKELY(atomic_load_explicit(&s->state, memory_order_seq_cst) == LK_STATE_OPEN)) {
        return LK_OK;
    }
    lk_store_leave(s);
    return lk_store_closed_error(s, err);
}

void lk_store_leave(lk_store *s) { atomic_fetch_sub_explicit(&s->inside, 1, memory_order_seq_cst); }

/* ---- views and snapshots ---- */

lk_view *lk_store_view(lk_store *s)
{
    unsigned token = lk_guard_enter(&s->guard);
    lk_view *v = atomic_load_explicit(&s->view, memory_order_seq_cst);
    lk_view_ref(v);
    lk_guard_exit(&s->guard, token);
    return v;
}

lk_view *lk_store_view_then(lk_store *s, uint64_t *out_now_us)
{
    lk_lock_acquire(&s->write_lock);
    lk_view *v = lk_store_view(s);
    *out_now_us = lk_env_wall_us(s->env);
    lk_lock_release(&s->write_lock);
    return v;
}

lk_view *lk_store_view_now(lk_store *s, uint64_t *out_seq)
{
    lk_view *v = lk_store_view(s);
    if (v->segment_count > 0) {
        const lk_segment *newest = v->segments[0];
        uint32_t n = atomic_load_explicit(&newest->published, memory_order_acquire);
        *out_seq = newest->base_seq + n - 1;
    } else {
        *out_seq = v->last_seq;
    }
    return v;
}

lk_status lk_store_snapshot(lk_store *s, lk_snapshot **out, lk_error *err)
{
    lk_snapshot *snapshot = malloc(sizeof *snapshot);
    *out = NULL;
    if (snapshot == NULL) return lk_fail_nomem(err, sizeof *snapshot);
    /* Under the lock: a flush that takes the list either finds this one, or froze its segments
     * before, so that all of them are older than what this one sees. */
    lk_lock_acquire(&s->snapshot_lock);
    lk_view *v = lk_store_view_now(s, &snapshot->seq);
    snapshot->view = s->options.read_only ? v : NULL;
    snapshot->previous = s->snapshots.previous;
    snapshot->next = &s->snapshots;
    snapshot->previous->next = snapshot;
    s->snapshots.previous = snapshot;
    lk_lock_release(&s->snapshot_lock);
    if (snapshot->view == NULL) lk_view_unref(v);
    *out = snapshot;
    return LK_OK;
}

void lk_store_release(lk_store *s, lk_snapshot *snapshot)
{
    if (snapshot == NULL) return;
    lk_lock_acquire(&s->snapshot_lock);
    snapshot->next->previous = snapshot->previous;
    snapshot->previous->next = snapshot->next;
    lk_lock_release(&s->snapshot_lock);
    lk_view_unref(snapshot->view);
    free(snapshot);
}

lk_status lk_store_snapshots(lk_store *s, uint64_t **out, size_t *out_count, lk_error *err)
{
    lk_status st = LK_OK;
    size_t n = 0;
    *out = NULL;
    *out_count = 0;
    lk_lock_acquire(&s->snapshot_lock);
    for (lk_snapshot *p = s->snapshots.next; p != &s->snapshots; p = p->next) n++;
    if (n > 0) {
        *out = malloc(n * sizeof **out);
        if (*out == NULL) st = lk_fail_nomem(err, n * sizeof **out);
    }
    if (*out != NULL) {
        /* Newest last in the ring, so backwards is descending. */
        for (lk_snapshot *p = s->snapshots.previous; p != &s->snapshots; p = p->previous) {
            (*out)[(*out_count)++] = p->seq;
        }
    }
    lk_lock_release(&s->snapshot_lock);
    return st;
}

/* ---- opening ---- */

void lk_store_options_init(lk_store_options *o)
{
    *o = (lk_store_options){
        .segment_bytes = 64u << 20,
        .cache_bytes = 256u << 20,
        .table_bytes = 64u << 20,
        .block_bytes = 16u << 10,
        .filter_bits = 10,
        .blob_bytes = 4u << 10,
        .max_garbage = 0.5,
        .codec = LK_CODEC_LZ4,
        .background_threads = 2,
        .sync_interval_ms = 1000,
        .late_min = 4u << 20,
        .frozen_max = 3,
        .memory_bytes = 1u << 30,
        .create_if_missing = true,
    };
}

static lk_status directory_prepare(lk_store *s, bool *out_exists, lk_error *err)
{
    lk_status st = LK_OK;
    const lk_store_options *o = &s->options;
    bool dir_exists, is_dir;
    *out_exists = false;
    LK_TRY(lk_env_exists(s->env, s->dir, &dir_exists, &is_dir, err));
    if (dir_exists && !is_dir) {
        return lk_fail(err, LK_IO, ENOTDIR, s->dir, 0, 0, 0, "cannot open a store in %s", s->dir);
    }
    if (dir_exists) LK_TRY(lk_manifest_exists(s->env, s->dir, out_exists, err));
    if (!*out_exists && (!o->create_if_missing || o->read_only)) {
        return lk_fail(err, LK_NOT_FOUND, 0, s->dir, 0, 0, 0, "%s: there is no store", s->dir);
    }
    if (*out_exists && o->error_if_exists) {
        return lk_fail(err, LK_EXISTS, 0, s->dir, 0, 0, 0, "%s: the store is there already",
                       s->dir);
    }
    if (!dir_exists) {
        LK_TRY(lk_env_mkdir(s->env, s->dir, NULL, err));
    }
done:
    return st;
}

static lk_status owner_lock(lk_store *s, lk_error *err)
{
    uint64_t started = lk_env_now_ns(s->env);
    for (;;) {
        lk_status st = lk_dir_lock(s->env, s->dir, &s->owner, err);
        if (st != LK_LOCKED) return st;
        if (lk_env_now_ns(s->env) - started >= s->options.lock_timeout_ns) return st;
        /* Nothing signals an event that is the caller's own: this is a sleep of 10 ms. */
        (void)lk_event_wait_ns(&s->changed, lk_event_generation(&s->changed), 10000000);
    }
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The numbers of all tables, ascending: asked for each file, it is not to depend on how many trees
 * there are. `out` is malloc'ed. */
static lk_status version_files(const lk_version *v, uint64_t **out, size_t *out_count,
                               lk_error *err)
{
    size_t count = 0, n = 0;
    for (uint32_t t = 0; t < v->tree_count; t++) {
        count += v->trees[t] == NULL ? 0 : v->trees[t]->file_count;
    }
    uint64_t *files = malloc((count + 1) * sizeof *files);
    *out = files;
    *out_count = count;
    if (files == NULL) return lk_fail_nomem(err, (count + 1) * sizeof *files);
    for (uint32_t t = 0; t < v->tree_count; t++) {
        const lk_tree_version *tree = v->trees[t];
        for (uint32_t i = 0; tree != NULL && i < tree->file_count; i++) {
            files[n++] = tree->files[i].file;
        }
    }
    qsort(files, count, sizeof *files, by_number);
    return LK_OK;
}

/* Where CURRENT is gone, what is there would be taken for leftovers and removed. */
static lk_status empty_check(lk_store *s, lk_error *err)
{
    lk_names names = {0};
    lk_status st = lk_env_list(s->env, s->dir, &names, err);
    for (size_t i = 0; st == LK_OK && i < names.count; i++) {
        const char *name = names.names[i], *end = name + strspn(name, "0123456789");
        if (end == name ||
            (strcmp(end, ".sst") != 0 && strcmp(end, ".blob") != 0 && strcmp(end, ".log") != 0)) {
            continue;
        }
        st = lk_fail_corrupt(err, s->dir, 0, 0, 0,
                             "%s: holds %s, but no CURRENT, which says what is in the store",
                             s->dir, name);
    }
    lk_names_free(&names);
    return st;
}

/* Beside an owner who does not know of this reader: what is open can be read also after the owner has
 * deleted it. */
lk_status lk_store_tables_hold(const lk_version *v, lk_error *err)
{
    for (uint32_t t = 0; t < v->tree_count; t++) {
        const lk_tree_version *tree = v->trees[t];
        for (uint32_t i = 0; tree != NULL && i < tree->file_count; i++) {
            lk_status st = lk_table_load(tree->files[i].table, err);
            if (st != LK_OK) return st;
        }
        for (uint32_t i = 0; tree != NULL && tree->blobs != NULL && i < tree->blobs->count; i++) {
            lk_status st = lk_blob_file_load(tree->blobs->items[i].file, err);
            if (st != LK_OK) return st;
        }
    }
    return LK_OK;
}

/* ---- what earlier processes have left ---- */

static lk_status leftover_add(lk_store *s, const char *path, lk_error *err)
{
    if ((s->leftover_count & (s->leftover_count + 1)) == 0) { /* all of 1, 3, 7 ... are taken */
        size_t bytes = (2 * s->leftover_count + 1) * sizeof *s->leftovers;
        char **bigger = realloc(s->leftovers, bytes);
        if (bigger == NULL) return lk_fail_nomem(err, bytes);
        s->leftovers = bigger;
    }
    char *copy = strdup(path);
    if (copy == NULL) return lk_fail_nomem(err, strlen(path));
    s->leftovers[s->leftover_count++] = copy;
    return LK_OK;
}

static void leftovers_free(lk_store *s)
{
    for (size_t i = 0; i < s->leftover_count; i++) free(s->leftovers[i]);
    free(s->leftovers);
    s->leftovers = NULL;
    s->leftover_count = 0;
}

lk_status lk_store_settle(lk_store *s, lk_error *err)
{
    lk_lock_acquire(&s->edit_lock);
    lk_status st = lk_manifest_settle(s->manifest, err);
    lk_lock_release(&s->edit_lock);
    for (size_t i = 0; i < s->leftover_count && st == LK_OK; i++) {
        st = lk_env_unlink(s->env, s->leftovers[i], err);
        if (st == LK_NOT_FOUND) st = LK_OK;
    }
    leftovers_free(s);
    lk_store_trim_history(s, s->history.bytes_max);
    return st;
}

/* Tables and files of values that no edit names were being written when the process died, or readers had
 * them when the last owner went, and may still have them. */
static lk_status orphans_find(lk_store *s, lk_version *version, lk_error *err)
{
    lk_status st = LK_OK;
    lk_names names = {0};
    bool are_read = lk_readers_begin(&s->readers, version);
    uint64_t *files = NULL;
    size_t count;
    LK_TRY(version_files(version, &files, &count, err));
    LK_TRY(lk_env_list(s->env, s->dir, &names, err));
    for (size_t i = 0; i < names.count; i++) {
        uint64_t file;
        char path[LK_PATH_MAX];
        lk_file_kind kind = lk_file_kind_of(names.names[i], &file);
        if (kind != LK_FILE_TABLE && kind != LK_FILE_BLOB) continue;
        lk_manifest_saw_file(s->manifest, file);
        bool named = kind == LK_FILE_TABLE
                         ? bsearch(&file, files, count, sizeof file, by_number) != NULL
                         : lk_version_uses_blob(version, file);
        if (named) continue;
        LK_TRY(lk_path_join(s->dir, names.names[i], path, err));
        LK_TRY(are_read ? lk_readers_leave(&s->readers, path, err) : leftover_add(s, path, err));
    }
done:
    free(files);
    lk_names_free(&names);
    return st;
}

static lk_status log_recover(lk_store *s, lk_version *version, bool *out_dropped, lk_error *err)
{
    lk_status st = LK_OK;
    lk_recovery r;
    lk_segment **newest_first = NULL;
    LK_TRY(lk_recover_late(s->env, s->dir, s->manifest, s->mapped, s->options.read_only,
                           s->options.read_only ? 0 : s->options.late_min, &r, err));
    *out_dropped = r.dropped;
    uint64_t retired = lk_manifest_log_retired(s->manifest);
    lk_history_clear(&s->history); /* this may be another try */
    for (size_t i = 0; i < r.unused_count; i++) {
        char path[LK_PATH_MAX];
        bool is_history = false;
        if (r.unused[i] <= retired) {
            LK_TRY(lk_history_adopt(&s->history, s->env, s->dir, r.unused[i], &is_history, err));
        }
        if (is_history || s->options.read_only) continue;
        lk_segment_path(s->dir, r.unused[i], path, sizeof path);
        LK_TRY(leftover_add(s, path, err));
    }
    newest_first = calloc(r.count + 1, sizeof *newest_first);
    if (newest_first == NULL) {
        st = lk_fail_nomem(err, r.count * sizeof *newest_first);
        goto done;
    }
    for (size_t i = 0; i < r.count; i++) newest_first[i] = r.segments[r.count - 1 - i];
    lk_view *v = lk_view_new(newest_first, (uint32_t)r.count, version, s->options.settings);
    if (v == NULL) {
        st = lk_fail_nomem(err, sizeof *v);
        goto done;
    }
    v->last_seq = lk_manifest_last_seq(s->manifest);
    v->gaps = &s->gaps;
    atomic_store(&s->unproved, v->unproved);
    atomic_store(&s->view, v);
    atomic_store(&s->frozen, (uint32_t)r.count);
    atomic_store(&s->recovered_left, (uint32_t)r.count);
    atomic_store(&s->counters.recovered_records, r.records);
    atomic_store(&s->counters.recovered_bytes, r.bytes);
    atomic_store(&s->counters.lost_bytes, r.lost_bytes);
    s->next_seq = r.last_seq + 1;
    s->next_generation = r.max_generation + 1;
    s->newest_generation = r.max_generation;
    s->previous_end = r.end;
    s->previous_link = r.link;
done:
    free(newest_first);
    lk_recovery_deinit(&r);
    return st;
}

lk_status lk_store_peek(lk_env *env, const char *dir, lk_properties *out, lk_error *err)
{
    lk_status st = LK_OK;
    bool exists = false;
    lk_manifest *m = NULL;
    lk_manifest_options o = {.read_only = true};
    lk_version *version = NULL;
    lk_manifest_state state;
    *out = (lk_properties){NULL, 0};
    LK_TRY(lk_env_exists(env, dir, &exists, NULL, err));
    if (exists) LK_TRY(lk_manifest_exists(env, dir, &exists, err));
    if (!exists) goto done;
    LK_TRY(lk_manifest_open(env, dir, &o, NULL, &m, err));
    LK_TRY(lk_manifest_copy_state(m, &version, out, &state, err));
done:
    lk_version_unref(version);
    lk_manifest_close(m);
    return st;
}

static void store_init(lk_store *s)
{
    lk_guard_init(&s->guard);
    lk_lock_init(&s->write_lock);
    lk_lock_init(&s->view_lock);
    lk_lock_init(&s->edit_lock);
    lk_lock_init(&s->trees_lock);
    lk_lock_init(&s->snapshot_lock);
    lk_lock_init(&s->failure_lock);
    lk_gap_memory_init(&s->gaps);
    lk_pace_init(&s->pace);
    lk_history_init(&s->history);
    lk_hot_init(&s->hot);
    pthread_mutex_init(&s->sync_mutex, NULL);
    pthread_cond_init(&s->sync_cond, NULL);
    pthread_mutex_init(&s->queue_mutex, NULL);
    pthread_cond_init(&s->queue_cond, NULL);
    lk_event_init(&s->changed);
    lk_event_init(&s->decide);
    lk_event_init(&s->keeper_event);
    s->snapshots.next = s->snapshots.previous = &s->snapshots;
}

static lk_status options_check(const lk_store_options *o, const char *dir, lk_error *err)
{
    if (strlen(dir) + 32 > LK_PATH_MAX) {
        return lk_fail(err, LK_INVALID, 0, NULL, 0, LK_PATH_MAX - 32, strlen(dir),
                       "the path of the store is longer than %d bytes", LK_PATH_MAX - 32);
    }
    if (o->segment_bytes < LK_SEGMENT_BYTES_MIN || o->segment_bytes > LK_SEGMENT_BYTES_MAX) {
        return lk_fail(err, LK_INVALID, 0, dir, 0, LK_SEGMENT_BYTES_MAX, o->segment_bytes,
                       "segment_bytes is %" PRIu64 ", not %u to %u", o->segment_bytes,
                       LK_SEGMENT_BYTES_MIN, LK_SEGMENT_BYTES_MAX);
    }
    return LK_OK;
}

/* The name of a new store is on the disk before anything in it is called durable. */
static lk_status parent_sync(lk_store *s, lk_error *err)
{
    char parent[LK_PATH_MAX];
    lk_path_parent(s->dir, parent);
    return lk_env_sync_dir(s->env, parent, err);
}

/* A store that was just made gets an identity, and so does a checkpoint that is opened to be written:
 * from then on it is a store of its own. */
static lk_status identity_settle(lk_store *s, lk_error *err)
{
    lk_status st = LK_OK;
    lk_edit edit;
    lk_edit_init(&edit);
    uint64_t random[2];
    char id[33] = {0};
    if (lk_manifest_property(s->manifest, LK_PROPERTY_STORE_ID) != NULL &&
        lk_manifest_property(s->manifest, LK_PROPERTY_CHECKPOINT) == NULL) {
        return LK_OK;
    }
    lk_env_random(s->env, random, sizeof random);
    lk_hex16_write(random[0], id);
    lk_hex16_write(random[1], id + 16);
    LK_TRY(lk_edit_set(&edit, LK_PROPERTY_STORE_ID, id, err));
    LK_TRY(lk_edit_set(&edit, LK_PROPERTY_CHECKPOINT, NULL, err));
    lk_lock_acquire(&s->edit_lock);
    st = lk_store_edit(s, &edit, NULL, err);
    lk_lock_release(&s->edit_lock);
done:
    lk_edit_deinit(&edit);
    return st;
}

static lk_status contents_load(lk_store *s, bool exists, lk_error *err)
{
    lk_status st = LK_OK;
    lk_version *version = NULL;
    lk_manifest_options mo = {.read_only = s->options.read_only, .settle_later = true};
    bool dropped = false;
    if (exists) {
        LK_TRY(lk_manifest_open(s->env, s->dir, &mo, s->cache, &s->manifest, err));
    } else {
        LK_TRY(empty_check(s, err));
        LK_TRY(parent_sync(s, err));
        LK_TRY(lk_manifest_create(s->env, s->dir, &mo, s->cache, &s->manifest, err));
    }
    lk_trees_unref(s->trees);
    s->trees = NULL;
    lk_tree_shape shape = {.table_bytes = s->options.table_bytes,
                           .block_bytes = s->options.block_bytes,
                           .filter_bits = s->options.filter_bits,
                           .blob_bytes = s->options.blob_bytes,
                           .codec = s->options.codec};
    LK_TRY(lk_trees_load(s->manifest, s->dir, &shape, &s->trees, err));
    version = lk_manifest_version(s->manifest);
    if (s->options.read_only && !lk_store_is_registered(s))
        LK_TRY(lk_store_tables_hold(version, err));
    LK_TRY(log_recover(s, version, &dropped, err));
    /* Behind the verdict on the log: it also finds a manifest that has lost its last edits, whose
     * tables would be taken for orphans. */
    if (s->options.read_only) goto done;
    LK_TRY(orphans_find(s, version, err));
    /* With a log that is proved later the keeper does this later too: nothing is synced, and no edit
     * made, before. But what the verdict dropped must not come back. */
    if (!atomic_load(&s->unproved) || dropped) LK_TRY(lk_store_settle(s, err));
    if (dropped) LK_TRY(lk_env_sync_dir(s->env, s->dir, err));
    LK_TRY(identity_settle(s, err)); /* a store that lacks one has no log yet */
done:
    lk_version_unref(version);
    return st;
}

/* Beside a living owner, log files are recycled and removed between the reading of the manifest and
 * theirs; what looks like damage then is gone when both are read anew. */
static bool may_be_moving(const lk_store *s, lk_status st)
{
    return s->options.read_only && (st == LK_CORRUPT || st == LK_NOT_FOUND);
}

/* A disk that is full keeps no owner from working: without a pulse readers look at everything. */
static void pulse_begin(lk_store *s)
{
    lk_version *v = lk_manifest_version(s->manifest);
    lk_status st = lk_pulse_open(s->env, s->dir, &s->pulse, NULL);
    if (st == LK_OK) st = lk_pulse_begin(s->env, s->pulse, s->newest_generation, v->number, NULL);
    if (st != LK_OK) {
        lk_file_close(s->pulse);
        s->pulse = NULL;
    }
    lk_version_unref(v);
}

static lk_status store_load(lk_store *s, lk_error *err)
{
    lk_status st = LK_OK;
    bool exists;
    if (s->options.settings != NULL) {
        lk_settings_ref(s->options.settings);
    } else {
        LK_TRY(lk_settings_new(s->env, NULL, 0, &s->options.settings, err));
    }
    LK_TRY(directory_prepare(s, &exists, err));
    if (s->options.read_only) {
        LK_TRY(lk_store_follow_begin(s, err));
    } else {
        LK_TRY(owner_lock(s, err));
        /* Whoever had it may have made the store meanwhile. */
        LK_TRY(directory_prepare(s, &exists, err));
    }
    bool may_map = lk_env_may_map(s->env, s->dir);
    s->mapped = s->options.log_io == LK_LOG_MAPPED || (s->options.log_io == LK_LOG_AUTO && may_map);
    LK_TRY(lk_cache_new(s->options.cache_bytes, &s->guard, &s->cache, err));
    lk_limiter_init(&s->limiter, s->env, s->options.rate_limit);
    st = contents_load(s, exists, err);
    for (int again = 0; again < 4 && may_be_moving(s, st); again++) {
        lk_manifest_close(s->manifest);
        s->manifest = NULL;
        st = contents_load(s, exists, err);
    }
    if (st != LK_OK) goto done;
    if (s->options.read_only) {
        lk_store_follow_start(s);
    } else {
        pulse_begin(s);
    }
done:
    return st;
}

lk_status lk_store_open(lk_env *env, const char *dir, const lk_store_options *options,
                        lk_store **out, lk_error *err)
{
    *out = NULL;
    lk_status st = options_check(options, dir, err);
    if (st != LK_OK) return st;
    lk_store *s = calloc(1, sizeof *s);
    if (s == NULL) return lk_fail_nomem(err, sizeof *s);
    s->env = env;
    s->options = *options;
    s->options.segment_bytes = lk_align_up(options->segment_bytes, LK_PAGE_BYTES);
    s->options.frozen_max = lk_budget_frozen_max(&s->options);
    (void)snprintf(s->dir, sizeof s->dir, "%s", dir);
    store_init(s);
    LK_TRY(lk_readers_init(&s->readers, env, dir, err));
    s->history.bytes_max = options->retain_log_bytes;
    LK_TRY(store_load(s, err));
    if (!s->options.read_only) LK_TRY(lk_store_start(s, err));
    registry_add(s);
    *out = s;
    s = NULL;
done:
    if (s != NULL) {
        lk_store_stop(s);
        atomic_store(&s->state, LK_STATE_CLOSED);
        lk_store_follow_end(s);
        lk_view_unref(atomic_load(&s->view));
        atomic_store(&s->view, NULL);
        lk_env_unlock(s->owner);
        s->owner = NULL;
        lk_store_free(s);
    }
    return st;
}

/* ---- closing ---- */

static lk_status close_flush(lk_store *s, lk_error *err)
{
    lk_status st = LK_OK;
    lk_edit edit;
    if (s->options.read_only) return LK_OK;
    lk_edit_init(&edit);
    LK_TRY(lk_store_failure(s, err)); /* what was written may be lost: who closes hears it too */
    LK_TRY(lk_store_flush(s, err));
    edit.clean = true;
    lk_lock_acquire(&s->edit_lock);
    st = lk_store_edit(s, &edit, NULL, err);
    lk_lock_release(&s->edit_lock);
done:
    lk_edit_deinit(&edit);
    return st;
}

/* Another thread is closing it, and whoever comes back from a close may open the store again. */
static void wait_until_closed(lk_store *s)
{
    for (;;) {
        uint64_t seen = lk_event_generation(&s->changed);
        if (atomic_load(&s->state) != LK_STATE_CLOSING) return;
        (void)lk_event_wait_ns(&s->changed, seen, LK_EVENT_FOREVER);
    }
}

lk_status lk_store_close(lk_store *s, lk_error *err)
{
    uint32_t open = LK_STATE_OPEN;
    if (!atomic_compare_exchange_strong(&s->state, &open, LK_STATE_CLOSING)) {
        wait_until_closed(s);
        return LK_OK;
    }
    lk_lock_acquire(&s->write_lock);
    s->limit = 0;
    lk_lock_release(&s->write_lock);
    atomic_store(&s->cancel, true); /* or the flush below would wait for a long compaction */
    lk_event_broadcast(&s->decide);
    lk_guard_sync(&s->guard);
    while (atomic_load_explicit(&s->inside, memory_order_seq_cst) != 0) {
        lk_event_broadcast(&s->changed);
        (void)lk_event_wait_ns(&s->keeper_event, lk_event_generation(&s->keeper_event), 100000);
    }
    lk_limiter_lift(&s->limiter); /* whoever closes waits */
    lk_status st = close_flush(s, err);
    lk_store_stop(s);
    registry_remove(s);
    lk_store_follow_end(s);
    lk_view *v = atomic_exchange(&s->view, NULL);
    lk_view_unref(v);
    lk_segment_unref(s->active);
    s->active = NULL;
    lk_manifest_close(s->manifest);
    s->manifest = NULL;
    lk_readers_deinit(&s->readers);
    lk_file_close(s->pulse);
    s->pulse = NULL;
    lk_env_unlock(s->owner);
    s->owner = NULL;
    atomic_store(&s->state, LK_STATE_CLOSED);
    lk_event_broadcast(&s->changed);
    return st;
}

void lk_store_free(lk_store *s)
{
    /* In a child its mappings, threads and locks are not there, so that nothing can be given back. */
    if (s == NULL || atomic_load(&s->state) == LK_STATE_FORKED) return;
    LK_ASSERT(atomic_load(&s->state) == LK_STATE_CLOSED);
    leftovers_free(s);
    lk_manifest_close(s->manifest);
    lk_trees_unref(s->trees);
    lk_file_close(s->pulse);
    if (s->readers.dir != NULL) lk_readers_deinit(&s->readers);
    lk_cache_free(s->cache);
    lk_settings_unref(s->options.settings);
    lk_limiter_deinit(&s->limiter);
    lk_event_deinit(&s->changed);
    lk_event_deinit(&s->decide);
    lk_event_deinit(&s->keeper_event);
    pthread_cond_destroy(&s->queue_cond);
    pthread_mutex_destroy(&s->queue_mutex);
    pthread_cond_destroy(&s->sync_cond);
    pthread_mutex_destroy(&s->sync_mutex);
    lk_hot_deinit(&s->hot);
    lk_history_deinit(&s->history);
    lk_gap_memory_deinit(&s->gaps);
    lk_lock_deinit(&s->failure_lock);
    lk_lock_deinit(&s->snapshot_lock);
    lk_lock_deinit(&s->trees_lock);
    lk_lock_deinit(&s->edit_lock);
    lk_lock_deinit(&s->view_lock);
    lk_lock_deinit(&s->write_lock);
    lk_guard_deinit(&s->guard);
    free(s);
}
