/* btree.c: opening and closing a B+tree. */
#include "btree.h"

#include <errno.h>
#include <stdlib.h>

#include "check.h"
#include "file_names.h"

#define NAME_PAGES "tree.pages"
#define NAME_PAGES_NEW "tree.pages.new"
#define NAME_JOURNAL "tree.journal"
#define NAME_LOG "tree.redo"

/* ---- fork ---- */

static atomic_uint forks;

static void fork_child(void) { atomic_fetch_add_explicit(&forks, 1, memory_order_relaxed); }
static void fork_watch(void) { (void)pthread_atfork(NULL, NULL, fork_child); }
uint32_t lk_btree_forks(void) { return atomic_load_explicit(&forks, memory_order_relaxed); }

/* ---- calls ---- */

lk_status lk_btree_closed_error(lk_btree *t, lk_error *err)
{
    return lk_fail(err, LK_CLOSED, 0, t->dir, 0, 0, 0,
                   lk_btree_is_forked(t)
                       ? "%s: the tree was opened by the parent process; open it again here"
                       : "%s: the tree is closed",
                   t->dir);
}

lk_status lk_btree_enter(lk_btree *t, lk_error *err)
{
    if (lk_btree_is_forked(t)) return lk_btree_closed_error(t, err);
    atomic_fetch_add_explicit(&t->inside, 1, memory_order_seq_cst);
    if (LK_LIKELY(atomic_load_explicit(&t->state, memory_order_seq_cst) == 1)) return LK_OK;
    lk_btree_leave(t);
    return lk_btree_closed_error(t, err);
}

void lk_btree_leave(lk_btree *t) { atomic_fetch_sub_explicit(&t->inside, 1, memory_order_seq_cst); }

/* ---- opening ---- */

void lk_btree_options_init(lk_btree_options *o)
{
    *o = (lk_btree_options){.cache_bytes = 256u << 20,
                            .log_bytes = 64u << 20,
                            .page_bytes = 4096,
                            .sync_interval_ms = 1000,
                            .create_if_missing = true};
}

static lk_status path_of(const lk_btree *t, const char *name, char *out, lk_error *err)
{
    return lk_path_join(t->dir, name, out, err);
}

/* Whether the tree is there; makes the directory where it may be made. */
static lk_status directory_prepare(lk_btree *t, bool *out_exists, lk_error *err)
{
    lk_status st = LK_OK;
    const lk_btree_options *o = &t->options;
    char path[LK_PATH_MAX];
    bool dir_exists, is_dir;
    *out_exists = false;
    LK_TRY(lk_env_exists(t->env, t->dir, &dir_exists, &is_dir, err));
    if (dir_exists && !is_dir) {
        return lk_fail(err, LK_IO, ENOTDIR, t->dir, 0, 0, 0, "cannot open a tree in %s", t->dir);
    }
    LK_TRY(path_of(t, NAME_PAGES, path, err));
    if (dir_exists) LK_TRY(lk_env_exists(t->env, path, out_exists, NULL, err));
    if (!*out_exists && !o->create_if_missing) {
        return lk_fail(err, LK_NOT_FOUND, 0, t->dir, 0, 0, 0, "%s: there is no tree", t->dir);
    }
    if (*out_exists && o->error_if_exists) {
        return lk_fail(err, LK_EXISTS, 0, t->dir, 0, 0, 0, "%s: the tree is there already", t->dir);
    }
    if (!dir_exists) {
        char parent[LK_PATH_MAX];
        lk_path_parent(t->dir, parent);
        LK_TRY(lk_env_mkdir(t->env, t->dir, NULL, err));
        LK_TRY(lk_env_sync_dir(t->env, parent, err));
    }
done:
    return st;
}

static lk_status owner_lock(lk_btree *t, lk_error *err)
{
    uint64_t started = lk_env_now_ns(t->env);
    for (;;) {
        lk_status st = lk_dir_lock(t->env, t->dir, &t->owner, err);
        if (st != LK_LOCKED) return st;
        if (lk_env_now_ns(t->env) - started >= t->options.lock_timeout_ns) return st;
        /* Nothing signals an event that is the caller's own: this is a sleep of 10 ms. */
        (void)lk_event_wait_ns(&t->stop, lk_event_generation(&t->stop), 10000000);
    }
}

/* A file with a head and no pages, under another name until it is on the disk. */
static lk_status pages_create(lk_btree *t, lk_error *err)
{
    lk_status st = LK_OK;
    char path[LK_PATH_MAX], final[LK_PATH_MAX];
    uint8_t bytes[LK_BTREE_HEAD_BYTES];
    lk_file *file = NULL;
    lk_btree_head h = {.log = 1, .page_bytes = t->options.page_bytes, .pages = 1};
    lk_env_random(t->env, &h.nonce, sizeof h.nonce);
    lk_btree_head_write(&h, bytes);
    LK_TRY(path_of(t, NAME_PAGES_NEW, path, err));
    LK_TRY(path_of(t, NAME_PAGES, final, err));
    LK_TRY(
        lk_env_open(t->env, path, LK_OPEN_WRITE | LK_OPEN_CREATE | LK_OPEN_TRUNCATE, &file, err));
    LK_TRY(lk_file_write(file, 0, bytes, sizeof bytes, err));
    LK_TRY(lk_file_sync(file, err));
    LK_TRY(lk_env_rename(t->env, path, final, err));
    LK_TRY(lk_env_sync_dir(t->env, t->dir, err));
done:
    lk_file_close(file);
    return st;
}

static lk_status head_read(lk_btree *t, lk_error *err)
{
    lk_status st = LK_OK;
    uint8_t bytes[LK_BTREE_HEAD_BYTES];
    lk_error why;
    size_t got;
    bool done;
    LK_TRY(lk_file_read(t->file.file, 0, bytes, sizeof bytes, &got, err));
    memset(bytes + got, 0, sizeof bytes - got);
    lk_status parsed = lk_btree_head_parse(bytes, lk_file_path(t->file.file), &t->head, &why);
    if (parsed == LK_UNSUPPORTED) goto damaged;
    LK_TRY(lk_btree_journal_apply(t, parsed == LK_OK ? &t->head : NULL, &done, err));
    if (done) {
        LK_TRY(lk_file_read_exact(t->file.file, 0, bytes, sizeof bytes, err));
        LK_TRY(lk_btree_head_parse(bytes, lk_file_path(t->file.file), &t->head, err));
        parsed = LK_OK;
    }
    if (parsed == LK_OK) goto done;
damaged:
    if (err != NULL) *err = why;
    st = parsed;
done:
    return st;
}

static lk_status space_read(lk_btree *t, lk_error *err)
{
    lk_status st = LK_OK;
    const lk_btree_head *h = &t->head;
    uint64_t bytes = (uint64_t)h->free_count * LK_PAGE_RUN_BYTES, size;
    uint8_t *list = NULL;
    t->space.pages = h->pages;
    if (bytes == 0) goto done;
    LK_TRY(lk_file_size(t->file.file, &size, err));
    if (bytes > size) {
        st = lk_fail_corrupt(err, lk_file_path(t->file.file), 28, size, bytes,
                             "%s: the list of free pages cannot be", lk_file_path(t->file.file));
        goto done;
    }
    list = malloc(bytes);
    if (list == NULL) {
        st = lk_fail_nomem(err, bytes);
        goto done;
    }
    LK_TRY(lk_extent_read(&t->file, (lk_ref){h->free_page, h->free_hash}, list, bytes, err));
    LK_TRY(lk_space_load(&t->space, list, h->free_count, lk_file_path(t->file.file), err));
done:
    free(list);
    return st;
}

static lk_status memory_make(lk_btree *t, lk_error *err)
{
    uint32_t bytes = t->file.page_bytes;
    lk_status st = lk_page_cache_init(&t->cache, t->env, t->options.cache_bytes, bytes, err);
    if (st != LK_OK) return st;
    t->dirty_max = t->cache.frame_count / 2;
    t->cells = malloc((2 * (size_t)lk_page_cells_max(bytes) + 2) * sizeof *t->cells);
    t->pages = malloc((size_t)bytes * 3);
    t->tail = malloc(bytes);
    t->keys = malloc(2 * (LK_KEY_BYTES_MAX + 1));
    t->fence = malloc(LK_KEY_BYTES_MAX + 1 + LK_REF_BYTES);
    if (t->cells == NULL || t->pages == NULL || t->tail == NULL || t->keys == NULL ||
        t->fence == NULL) {
        return lk_fail_nomem(err, (size_t)bytes * 4);
    }
    return LK_OK;
}

static lk_status files_open(lk_btree *t, bool exists, lk_error *err)
{
    lk_status st = LK_OK;
    char path[LK_PATH_MAX];
    if (!exists) LK_TRY(pages_create(t, err));
    LK_TRY(path_of(t, NAME_PAGES, path, err));
    LK_TRY(lk_env_open(t->env, path, LK_OPEN_WRITE, &t->file.file, err));
    LK_TRY(path_of(t, NAME_JOURNAL, path, err));
    LK_TRY(lk_env_open(t->env, path, LK_OPEN_WRITE | LK_OPEN_CREATE, &t->journal, err));
    LK_TRY(path_of(t, NAME_LOG, path, err));
    LK_TRY(lk_redo_init(&t->log, t->env, path, lk_env_may_map(t->env, t->dir), err));
    LK_TRY(lk_env_sync_dir(t->env, t->dir, err));
done:
    return st;
}

/* Applies what the log has; the caller makes a checkpoint of it, so that nothing is ever appended to a
 * log that was read back. */
static lk_status replay(lk_btree *t, lk_error *err)
{
    lk_status st = LK_OK;
    lk_redo_scan scan;
    const uint8_t *body;
    uint32_t bytes;
    LK_TRY(lk_redo_scan_init(&scan, &t->log, t->head.log, err));
    t->log.generation = t->head.log;
    while (lk_redo_scan_next(&scan, &body, &bytes)) {
        LK_TRY(lk_btree_apply(t, body, bytes, &t->counters.recovered_records, err));
    }
done:
    lk_redo_scan_deinit(&scan);
    return st;
}

static void *syncer_run(void *t_as_void)
{
    lk_btree *t = t_as_void;
    uint64_t interval_ns = (uint64_t)t->options.sync_interval_ms * 1000000u;
    /* Closing is all that it is told: it waits for the first event, also one of before it began. */
    while (!lk_event_wait_ns(&t->stop, 0, interval_ns)) {
        if (!atomic_exchange(&t->wants_sync, false)) continue;
        /* A failure stays in the log, and the next writer that waits finds it. */
        (void)lk_redo_sync(&t->log, lk_redo_written(&t->log), NULL);
    }
    return NULL;
}

static lk_status open_locked(lk_btree *t, bool exists, lk_error *err)
{
    lk_status st = LK_OK;
    LK_TRY(files_open(t, exists, err));
    LK_TRY(head_read(t, err));
    t->file.nonce = t->head.nonce;
    t->file.page_bytes = t->head.page_bytes;
    LK_TRY(memory_make(t, err));
    LK_TRY(space_read(t, err));
    LK_TRY(replay(t, err));
    if (t->counters.recovered_records != 0) {
        LK_TRY(lk_btree_checkpoint(t, false, 0, err));
    } else {
        LK_TRY(lk_redo_restart(&t->log, t->head.log, t->options.log_bytes, err));
    }
    LK_TRY(lk_thread_start(syncer_run, t, &t->syncer, "lsmkit-btree", err));
    t->has_syncer = true;
done:
    return st;
}

/* Where it can be chosen, a writer that waits is let in before readers that come after it. */
static void latch_init(pthread_rwlock_t *latch)
{
    pthread_rwlockattr_t attr;
    if (pthread_rwlockattr_init(&attr) != 0) abort();
#if defined(__GLIBC__)
    (void)pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
#endif
    if (pthread_rwlock_init(latch, &attr) != 0) abort();
    (void)pthread_rwlockattr_destroy(&attr);
}

static lk_status alloc(lk_env *env, const char *dir, const lk_btree_options *o, lk_btree **out,
                       lk_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fork_watch);
    *out = NULL;
    if (strlen(dir) >= LK_PATH_MAX - 32) {
        return lk_fail(err, LK_INVALID, 0, NULL, 0, LK_PATH_MAX - 32, strlen(dir),
                       "the path of the tree is longer than %d bytes", LK_PATH_MAX - 32);
    }
    lk_btree *t = calloc(1, sizeof *t);
    if (t == NULL) return lk_fail_nomem(err, sizeof *t);
    memcpy(t->dir, dir, strlen(dir) + 1);
    t->env = env;
    t->options = *o;
    t->forks = lk_btree_forks();
    lk_lock_init(&t->write_lock);
    lk_event_init(&t->stop);
    latch_init(&t->latch);
    *out = t;
    return LK_OK;
}

lk_status lk_btree_open(lk_env *env, const char *dir, const lk_btree_options *options,
                        lk_btree **out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_btree *t = NULL;
    bool exists;
    *out = NULL;
    LK_TRY(alloc(env, dir, options, &t, err));
    LK_TRY(directory_prepare(t, &exists, err));
    LK_TRY(owner_lock(t, err));
    LK_TRY(directory_prepare(t, &exists, err)); /* it may have been made meanwhile */
    LK_TRY(open_locked(t, exists, err));
    atomic_store_explicit(&t->state, 1, memory_order_seq_cst);
    *out = t;
    t = NULL;
done:
    if (t != NULL) {
        lk_btree_free(t);
    }
    return st;
}

/* ---- closing ---- */

static void release(lk_btree *t)
{
    lk_redo_deinit(&t->log);
    lk_file_close(t->file.file);
    lk_file_close(t->journal);
    t->file.file = t->journal = NULL;
    lk_page_cache_deinit(&t->cache);
    lk_space_deinit(&t->space);
    lk_env_unlock(t->owner);
    t->owner = NULL;
}

lk_status lk_btree_close(lk_btree *t, lk_error *err)
{
    lk_status st = LK_OK;
    int open = 1;
    if (lk_btree_is_forked(t)) return LK_OK;
    if (!atomic_compare_exchange_strong(&t->state, &open, 0)) return LK_OK;
    while (atomic_load_explicit(&t->inside, memory_order_seq_cst) != 0) {
        (void)lk_event_wait_ns(&t->stop, lk_event_generation(&t->stop), 100000);
    }
    lk_event_broadcast(&t->stop);
    if (t->has_syncer) (void)pthread_join(t->syncer, NULL);
    t->has_syncer = false;
    /* Those that try without waiting hold a lock while they are inside. */
    lk_lock_acquire(&t->write_lock);
    if (t->failed.code == LK_OK && t->log.failed.code == LK_OK) {
        st = lk_btree_checkpoint(t, false, 0, err);
        /* Not needed any more; where this fails it is applied once more. */
        if (st == LK_OK) (void)lk_file_truncate(t->journal, 0, NULL);
    }
    pthread_rwlock_wrlock(&t->latch);
    release(t);
    pthread_rwlock_unlock(&t->latch);
    lk_lock_release(&t->write_lock);
    return st;
}

void lk_btree_free(lk_btree *t)
{
    if (t == NULL || lk_btree_is_forked(t)) return;
    LK_ASSERT(atomic_load(&t->state) == 0);
    release(t);
    free(t->cells);
    free(t->pages);
    free(t->tail);
    free(t->keys);
    free(t->fence);
    lk_event_deinit(&t->stop);
    (void)pthread_rwlock_destroy(&t->latch);
    lk_lock_deinit(&t->write_lock);
    free(t);
}

uint64_t lk_btree_rows(lk_btree *t)
{
    lk_btree_read_begin(t);
    uint64_t rows = t->head.rows;
    lk_btree_read_end(t);
    return rows;
}

void lk_btree_stats(lk_btree *t, lk_btree_counters *counters, lk_btree_sizes *sizes)
{
    lk_lock_acquire(&t->write_lock);
    *counters = t->counters;
    counters->page_reads = atomic_load_explicit(&t->page_reads, memory_order_relaxed);
    pthread_rwlock_rdlock(&t->latch);
    counters->evictions = t->cache.evictions;
    *sizes = (lk_btree_sizes){
        .rows = t->head.rows,
        .file_pages = t->space.pages,
        .free_pages = t->space.now.pages + t->space.later.pages,
        .cached_pages = t->cache.frame_count - t->cache.spare_count,
        .dirty_pages = t->cache.dirty_count,
        .cache_pages = t->cache.frame_count,
        .levels = t->head.root == 0 ? 0 : t->head.levels + 1,
        .page_bytes = t->file.page_bytes,
        .log_used = t->log.position,
        .log_capacity = t->log.capacity,
    };
    pthread_rwlock_unlock(&t->latch);
    pthread_mutex_lock(&t->log.mutex);
    counters->syncs = t->log.syncs;
    pthread_mutex_unlock(&t->log.mutex);
    lk_lock_release(&t->write_lock);
}
