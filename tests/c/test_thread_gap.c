/* test_thread_gap.c: scans of a queue that others write see a whole stretch of it, whatever they
 * learn from each other of its dead head.
 *
 * Method: a writer appends at the tail, deletes at the head, and now and then puts a row in front of
 * all others and takes it away again. Scanners compare with what was acknowledged before they began
 * and begun before they ended. Under the thread sanitizer too.
 */
#include "harness.h"

#include "store_fixture.h"

enum { SCANNERS = 3, DEPTH = 200, ROWS_MAX = 2 * DEPTH + 8, ROUND_MS = 600 };

typedef struct shared {
    lk_store *store;
    atomic_bool stop;
    _Atomic uint64_t appending, appended, deleting, deleted; /* rows below this one */
    _Atomic uint64_t urgent; /* odd while the row in front may be there, or may not */
    _Atomic bool urgent_there;
    _Atomic uint64_t scans, gaps;
} shared;

static void put(shared *x, uint64_t i, bool there)
{
    char key[24];
    (void)snprintf(key, sizeof key, "%010llu", (unsigned long long)i);
    store_put(x->store, 0, key, there ? "v" : NULL);
}

static void *write_run(void *arg)
{
    shared *x = arg;
    for (uint64_t turn = 0; !atomic_load(&x->stop); turn++) {
        uint64_t tail = atomic_load(&x->appended), head = atomic_load(&x->deleted);
        atomic_store(&x->appending, tail + 1);
        put(x, tail + 1, true);
        atomic_store(&x->appended, tail + 1);
        if (tail + 1 - head > DEPTH) {
            atomic_store(&x->deleting, head + 1);
            put(x, head + 1, false);
            atomic_store(&x->deleted, head + 1);
        }
        if (turn % 300 == 299) {
            atomic_fetch_add(&x->urgent, 1);
            put(x, 0, !atomic_load(&x->urgent_there));
            atomic_store(&x->urgent_there, !atomic_load(&x->urgent_there));
            atomic_fetch_add(&x->urgent, 1);
        }
    }
    return NULL;
}

static uint64_t number_of(lk_bytes key)
{
    char digits[16] = {0};
    CHECK_EQ(key.len, 10);
    memcpy(digits, key.data, 10);
    return strtoull(digits, NULL, 10);
}

/* All rows of a cursor, in ascending order. */
static size_t read_all(lk_cursor *c, bool reverse, uint64_t *out)
{
    lk_error err;
    size_t count = 0, n;
    do {
        lk_pair pairs[64];
        CHECK_OK(lk_cursor_next(c, pairs, 64, &n, &err), &err);
        CHECK(count + n <= ROWS_MAX);
        for (size_t i = 0; i < n; i++) out[count++] = number_of(pairs[i].key);
    } while (n > 0);
    for (size_t i = 0; reverse && i < count / 2; i++) {
        uint64_t t = out[i];
        out[i] = out[count - 1 - i];
        out[count - 1 - i] = t;
    }
    return count;
}

/* Rows are numbers side by side, from one that was not deleted before to one not begun after. */
static void scan_once(shared *x, bool reverse)
{
    lk_error err;
    uint64_t rows[ROWS_MAX];
    size_t n, i = 0;
    uint64_t now, urgent = atomic_load(&x->urgent);
    bool there = atomic_load(&x->urgent_there);
    uint64_t deleted = atomic_load(&x->deleted), appended = atomic_load(&x->appended);
    lk_bounds all = {{NULL, 0}, {NULL, 0}};
    lk_cursor *c;
    lk_view *v = lk_store_view_now(x->store, &now);
    bool sure = urgent % 2 == 0 && atomic_load(&x->urgent) == urgent;
    uint64_t deleting = atomic_load(&x->deleting), appending = atomic_load(&x->appending);
    CHECK_OK(lk_cursor_open(v, 0, now, &all, reverse, &c, &err), &err);
    lk_view_unref(v);
    n = read_all(c, reverse, rows);
    lk_cursor_close(c);
    bool found = n > 0 && rows[0] == 0;
    if (sure) CHECK_EQ(found, there);
    i = found ? 1 : 0;
    uint64_t first = n > i ? rows[i] : deleted + 1, last = first + (n - i) - 1;
    CHECK(first > deleted && first <= deleting + 1);
    if (n > i) CHECK(last >= appended && last <= appending);
    for (; i < n; i++) CHECK_EQ(rows[i], last - (n - 1 - i));
    atomic_fetch_add(&x->scans, 1);
    if (atomic_load(&x->store->gaps.count) > 0) atomic_fetch_add(&x->gaps, 1);
}

static void *scan_run(void *arg)
{
    shared *x = arg;
    for (uint64_t turn = 0; !atomic_load(&x->stop); turn++) scan_once(x, turn % 4 == 3);
    return NULL;
}

LK_TEST(scans_beside_the_writer_of_a_queue_miss_no_row)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 256 << 10);
    shared x = {.store = store_open(sim, &o)};
    pthread_t threads[SCANNERS + 1];
    for (uint64_t i = 1; i <= DEPTH; i++) put(&x, i, true);
    atomic_store(&x.appending, DEPTH);
    atomic_store(&x.appended, DEPTH);
    for (int i = 0; i <= SCANNERS; i++) {
        CHECK_EQ(pthread_create(&threads[i], NULL, i == 0 ? write_run : scan_run, &x), 0);
    }
    struct timespec pause = {.tv_sec = 0, .tv_nsec = ROUND_MS * 1000000L};
    nanosleep(&pause, NULL);
    atomic_store(&x.stop, true);
    for (int i = 0; i <= SCANNERS; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
    CHECK(atomic_load(&x.scans) > 0 && atomic_load(&x.gaps) > 0);
    store_close(x.store);
    lk_sim_free(sim);
}
