/* test_thread_refresh.c: threads that move a reader on, and threads that read it meanwhile, see each
 * write whole, in its order, and never go back.
 *
 * Method: a writer puts the same number under all keys, in one batch each time, beside flushes and
 * compactions; the reader's handle is another of the same process, on the real machine. Its threads
 * refresh it, read keys, and compare all keys of a snapshot. Under the thread sanitizer too.
 */
#include "harness.h"

#include "store_fixture.h"

enum { KEYS = 12, REFRESHERS = 2, GETTERS = 2, SNAPSHOTTERS = 2, ROUND_MS = 600 };

typedef struct shared {
    lk_store *owner, *reader;
    atomic_bool stop;
    _Atomic unsigned acknowledged;
    _Atomic unsigned long refreshes, reads, snapshots;
} shared;

static bool is_over(const shared *h) { return atomic_load(&h->stop); }

/* ---- the owner ---- */

static void write_number(lk_store *s, unsigned number)
{
    char keys[KEYS][16], value[64];
    store_op ops[KEYS];
    lk_error err;
    (void)snprintf(value, sizeof value, "%08u %0*u", number, (int)(number % 40) + 1, 0);
    for (unsigned i = 0; i < KEYS; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "key%02u", i);
        ops[i] = (store_op){0, keys[i], value, NULL};
    }
    CHECK_OK(store_batch(s, ops, KEYS, LK_DURABILITY_PROCESS, &err), &err);
}

static void *write_run(void *arg)
{
    shared *h = arg;
    for (unsigned number = 1; !is_over(h); number++) {
        lk_status st;
        write_number(h->owner, number);
        atomic_store(&h->acknowledged, number);
        if (number % 200 == 0) store_flush(h->owner);
        if (number % 1000 == 0) (void)store_compact(h->owner, 0, &st);
    }
    return NULL;
}

/* ---- the reader ---- */

static unsigned number_in(lk_view *v, unsigned i, uint64_t seq, lk_guard *guard)
{
    char key[16];
    lk_error err;
    lk_lookup found;
    lk_answer answer;
    lk_block *block;
    (void)snprintf(key, sizeof key, "key%02u", i);
    const uint8_t *bytes = (const uint8_t *)key;
    size_t n = strlen(key);
    CHECK_OK(lk_view_fetch(v, guard, 0, bytes, n, lk_hash_key(0, bytes, n), seq, &found, &answer,
                           &block, &err),
             &err);
    char digits[9] = "0";
    if (found == LK_LOOKUP_VALUE) memcpy(digits, answer.value.data, 8);
    lk_block_unref(block);
    return (unsigned)strtoul(digits, NULL, 10);
}

static void refresh(lk_store *s)
{
    lk_error err;
    bool moved;
    CHECK_OK(lk_store_enter(s, &err), &err);
    if (lk_store_is_behind(s)) CHECK_OK(lk_store_refresh(s, &moved, &err), &err);
    lk_store_leave(s);
}

static unsigned get(lk_store *s, unsigned i)
{
    lk_error err;
    uint64_t seq;
    CHECK_OK(lk_store_enter(s, &err), &err);
    lk_view *v = lk_store_view_now(s, &seq);
    unsigned number = number_in(v, i, seq, &s->guard);
    lk_view_unref(v);
    lk_store_leave(s);
    return number;
}

/* What was acknowledged before a refresh is there behind it. */
static void *refresh_run(void *arg)
{
    shared *h = arg;
    while (!is_over(h)) {
        unsigned before = atomic_load(&h->acknowledged);
        refresh(h->reader);
        CHECK(get(h->reader, before % KEYS) >= before);
        atomic_fetch_add(&h->refreshes, 1);
    }
    return NULL;
}

static void *get_run(void *arg)
{
    shared *h = arg;
    unsigned last = 0;
    for (unsigned i = 0; !is_over(h); i++) {
        unsigned number = get(h->reader, i % KEYS);
        CHECK(number >= last);
        last = number;
        atomic_fetch_add(&h->reads, 1);
    }
    return NULL;
}

static void *snapshot_run(void *arg)
{
    shared *h = arg;
    while (!is_over(h)) {
        lk_error err;
        lk_snapshot *snapshot;
        CHECK_OK(lk_store_enter(h->reader, &err), &err);
        CHECK_OK(lk_store_snapshot(h->reader, &snapshot, &err), &err);
        CHECK(snapshot->view != NULL);
        unsigned first = number_in(snapshot->view, 0, snapshot->seq, &h->reader->guard);
        for (unsigned i = 1; i < 3 * KEYS; i++) {
            unsigned number = number_in(snapshot->view, i % KEYS, snapshot->seq, &h->reader->guard);
            CHECK_EQ(number, first);
        }
        lk_store_release(h->reader, snapshot);
        lk_store_leave(h->reader);
        atomic_fetch_add(&h->snapshots, 1);
    }
    return NULL;
}

/* ---- tests ---- */

enum { WORKERS = 1 + REFRESHERS + GETTERS + SNAPSHOTTERS };

static void work_beside(bool mapped)
{
    static shared h;
    pthread_t threads[WORKERS];
    lk_error err;
    const char *dir = lk_test_dir();
    lk_store_options o = store_options(mapped, 32768);
    memset(&h, 0, sizeof h);
    CHECK_OK(lk_store_open(lk_env_posix(), dir, &o, &h.owner, &err), &err);
    o.read_only = true;
    CHECK_OK(lk_store_open(lk_env_posix(), dir, &o, &h.reader, &err), &err);
    for (unsigned i = 0; i < WORKERS; i++) {
        void *(*run)(void *) = i == 0                         ? write_run
                               : i < 1 + REFRESHERS           ? refresh_run
                               : i < 1 + REFRESHERS + GETTERS ? get_run
                                                              : snapshot_run;
        CHECK(pthread_create(&threads[i], NULL, run, &h) == 0);
    }
    usleep(ROUND_MS * 1000);
    atomic_store(&h.stop, true);
    for (unsigned i = 0; i < WORKERS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(atomic_load(&h.refreshes) > 20 && atomic_load(&h.reads) > 20);
    CHECK(atomic_load(&h.snapshots) > 0 && atomic_load(&h.acknowledged) > 20);
    refresh(h.reader);
    for (unsigned i = 0; i < KEYS; i++) CHECK_EQ(get(h.reader, i), atomic_load(&h.acknowledged));
    store_close(h.reader);
    store_close(h.owner);
}

LK_TEST(threads_move_a_reader_on_beside_a_mapped_log) { work_beside(true); }
LK_TEST(threads_move_a_reader_on_beside_a_written_log) { work_beside(false); }
