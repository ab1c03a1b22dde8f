/* test_thread_store.c: many threads in one store see only what could be: values that never go back,
 * batches whole, snapshots that do not change; and after all of it every last acknowledged write.
 *
 * Method: threads of all kinds work on one store for a while, under the thread sanitizer too; each
 * checks what it sees against what a writer can have written. Then the contents are compared with
 * what each writer was told.
 */
#include "harness.h"

#include "store_fixture.h"

enum { WRITERS = 3, KEYS = 20, PAIRS = 8, ROUND_MS = 700 };

/* Writer w owns the keys "w/k" of tree 0, whose value is a number that grows; and the pairs "w/p",
 * which it writes in trees 1 and 2 in one batch, so that both always are the same. */
typedef struct shared {
    lk_store *store;
    atomic_bool stop;
    unsigned acknowledged[WRITERS][KEYS]; /* by its writer, read after it has ended */
    unsigned paired[WRITERS][PAIRS];
    _Atomic unsigned long reads, scans, writes, closed;
} shared;

typedef struct worker {
    shared *shared;
    unsigned number;
    uint64_t rng;
    pthread_t thread;
} worker;

static bool is_over(const worker *w) { return atomic_load(&w->shared->stop); }

/* A call that came too late; the thread ends. */
static bool was_closed(worker *w, lk_status st, const lk_error *err)
{
    if (st == LK_OK) return false;
    if (st != LK_CLOSED) lk_test_fail(__FILE__, __LINE__, "status %d: %s", st, err->message);
    atomic_fetch_add(&w->shared->closed, 1);
    return true;
}

/* ---- writers ---- */

static lk_status write_single(worker *w, unsigned k, unsigned number, lk_error *err)
{
    char key[16], value[128];
    (void)snprintf(key, sizeof key, "%u/%02u", w->number, k);
    (void)snprintf(value, sizeof value, "%u:%0*d", number, (int)(number % 90), 0);
    lk_durability d = number % 200 == 0 ? LK_DURABILITY_SYNC : LK_DURABILITY_PROCESS;
    return store_write(w->shared->store, 0, key, value, d, err);
}

static lk_status write_pair(worker *w, unsigned p, unsigned number, lk_error *err)
{
    char key[16], value[32];
    (void)snprintf(key, sizeof key, "%u/%02u", w->number, p);
    (void)snprintf(value, sizeof value, "%u:", number);
    bool deleted = number % 7 == 0;
    store_op ops[] = {{1, key, deleted ? NULL : value, NULL},
                      {2, key, deleted ? NULL : value, NULL}};
    return store_batch(w->shared->store, ops, 2, LK_DURABILITY_PROCESS, err);
}

static void *write_run(void *arg)
{
    worker *w = arg;
    for (unsigned number = 1; !is_over(w); number++) {
        lk_error err;
        unsigned k = (unsigned)lk_test_below(&w->rng, KEYS), p = number % PAIRS;
        if (lk_test_below(&w->rng, 4) != 0) {
            if (was_closed(w, write_single(w, k, number, &err), &err)) break;
            w->shared->acknowledged[w->number][k] = number;
        } else {
            if (was_closed(w, write_pair(w, p, number, &err), &err)) break;
            w->shared->paired[w->number][p] = number;
        }
        atomic_fetch_add_explicit(&w->shared->writes, 1, memory_order_relaxed);
    }
    return NULL;
}

/* ---- readers ---- */

static unsigned number_of(lk_bytes value)
{
    unsigned number = 0;
    size_t i = 0;
    for (; i < value.len && value.data[i] != ':'; i++) {
        CHECK(value.data[i] >= '0' && value.data[i] <= '9');
        number = number * 10 + (unsigned)(value.data[i] - '0');
    }
    CHECK(i < value.len);
    return number;
}

/* The number of a key as of `seq`, 0 when it is absent. LK_CLOSED ends the reader. */
static lk_status read_number(lk_store *s, uint32_t tree, const char *key, uint64_t seq,
                             unsigned *out, lk_error *err)
{
    const uint8_t *k = (const uint8_t *)key;
    size_t len = strlen(key);
    uint64_t hash = lk_hash_key(tree, k, len);
    unsigned token;
    lk_answer answer;
    *out = 0;
    lk_view *v = lk_store_read_begin(s, &token);
    if (v == NULL) return lk_store_closed_error(s, err);
    lk_lookup found = lk_view_get(v, tree, k, len, hash, seq, &answer);
    if (found == LK_LOOKUP_VALUE) *out = number_of(answer.value);
    lk_guard_exit(&s->guard, token);
    if (found != LK_LOOKUP_BLOCKED) return LK_OK;

    lk_status st = lk_store_enter(s, err);
    if (st != LK_OK) return st;
    lk_block *block;
    v = lk_store_view(s);
    st = lk_view_fetch(v, &s->guard, tree, k, len, hash, seq, &found, &answer, &block, err);
    if (st == LK_OK && found == LK_LOOKUP_VALUE) *out = number_of(answer.value);
    lk_block_unref(block);
    lk_view_unref(v);
    lk_store_leave(s);
    return st;
}

static void *read_run(void *arg)
{
    worker *w = arg;
    unsigned seen[WRITERS][KEYS] = {{0}};
    while (!is_over(w)) {
        lk_error err;
        char key[16];
        unsigned number, owner = (unsigned)lk_test_below(&w->rng, WRITERS);
        unsigned k = (unsigned)lk_test_below(&w->rng, KEYS);
        (void)snprintf(key, sizeof key, "%u/%02u", owner, k);
        lk_status st = read_number(w->shared->store, 0, key, UINT64_MAX - 1, &number, &err);
        if (was_closed(w, st, &err)) break;
        CHECK(number >= seen[owner][k]);
        seen[owner][k] = number;
        atomic_fetch_add_explicit(&w->shared->reads, 1, memory_order_relaxed);
    }
    return NULL;
}

typedef struct collected {
    unsigned count;
    char keys[WRITERS * KEYS][16];
    unsigned numbers[WRITERS * KEYS];
} collected;

static void collect_row(void *context, const lk_pair *pair)
{
    collected *c = context;
    CHECK(c->count < WRITERS * KEYS && pair->key.len < 16);
    memcpy(c->keys[c->count], pair->key.data, pair->key.len);
    c->keys[c->count][pair->key.len] = 0;
    CHECK(c->count == 0 || strcmp(c->keys[c->count - 1], c->keys[c->count]) < 0);
    c->numbers[c->count++] = number_of(pair->value);
}

static lk_status collect(lk_store *s, uint32_t tree, uint64_t seq, collected *out, lk_error *err)
{
    uint64_t rows;
    memset(out, 0, sizeof *out);
    lk_status st = lk_store_enter(s, err);
    if (st != LK_OK) return st;
    st = store_scan(s, tree, seq, false, collect_row, out, &rows, err);
    lk_store_leave(s);
    return st;
}

static lk_status snapshot_take(lk_store *s, lk_snapshot **out, lk_error *err)
{
    lk_status st = lk_store_enter(s, err);
    if (st != LK_OK) return st;
    st = lk_store_snapshot(s, out, err);
    lk_store_leave(s);
    return st;
}

/* In a snapshot both trees of the pairs are the same, and so are two looks at it. */
static void *snapshot_run(void *arg)
{
    worker *w = arg;
    collected *a = malloc(sizeof *a), *b = malloc(sizeof *b), *c = malloc(sizeof *c);
    lk_store *s = w->shared->store;
    CHECK(a != NULL && b != NULL && c != NULL);
    while (!is_over(w)) {
        lk_error err;
        lk_snapshot *snapshot;
        if (was_closed(w, snapshot_take(s, &snapshot, &err), &err)) break;
        lk_status st = collect(s, 1, snapshot->seq, a, &err);
        if (st == LK_OK) st = collect(s, 2, snapshot->seq, b, &err);
        usleep((unsigned)lk_test_below(&w->rng, 3000));
        if (st == LK_OK) st = collect(s, 1, snapshot->seq, c, &err);
        if (st == LK_OK) {
            CHECK(memcmp(a, b, sizeof *a) == 0);
            CHECK(memcmp(a, c, sizeof *a) == 0);
        }
        for (unsigned i = 0; st == LK_OK && i < a->count; i++) {
            unsigned number;
            st = read_number(s, 1 + i % 2, a->keys[i], snapshot->seq, &number, &err);
            if (st == LK_OK) CHECK_EQ(number, a->numbers[i]);
        }
        lk_store_release(s, snapshot);
        if (was_closed(w, st, &err)) break;
        atomic_fetch_add_explicit(&w->shared->scans, 1, memory_order_relaxed);
    }
    free(a);
    free(b);
    free(c);
    return NULL;
}

/* ---- what goes on beside them ---- */

static void *tend_run(void *arg)
{
    worker *w = arg;
    lk_store *s = w->shared->store;
    for (unsigned i = 0; !is_over(w); i++) {
        lk_error err;
        lk_status st = lk_store_enter(s, &err);
        if (was_closed(w, st, &err)) break;
        switch (i % 4) {
        case 0:
            st = lk_store_flush(s, &err);
            CHECK(st == LK_OK);
            break;
        case 1:
            st = lk_store_sync(s, &err);
            CHECK(st == LK_OK);
            break;
        case 2:
            lk_store_set_rate(s, i % 8 == 2 ? 64 << 20 : 0, false);
            break;
        default:
            for (uint32_t tree = 0; tree < 3; tree++) {
                (void)store_compact(s, tree, &st);
                CHECK(st == LK_OK || st == LK_CANCELLED);
            }
        }
        lk_store_leave(s);
        usleep((unsigned)lk_test_below(&w->rng, 5000));
    }
    lk_store_set_rate(s, 0, false);
    return NULL;
}

/* ---- tests ---- */

static lk_store_options options_of(bool mapped)
{
    lk_store_options o = store_options(mapped, 65536);
    o.background_threads = 2;
    o.sync_interval_ms = 20;
    o.cache_bytes = 64 << 10;
    return o;
}

static void check_contents(const shared *h)
{
    for (unsigned owner = 0; owner < WRITERS; owner++) {
        for (unsigned k = 0; k < KEYS; k++) {
            char key[16];
            unsigned number;
            lk_error err;
            (void)snprintf(key, sizeof key, "%u/%02u", owner, k);
            CHECK_OK(read_number(h->store, 0, key, UINT64_MAX - 1, &number, &err), &err);
            CHECK_EQ(number, h->acknowledged[owner][k]);
            if (k >= PAIRS) continue;
            unsigned paired = h->paired[owner][k] % 7 == 0 ? 0 : h->paired[owner][k];
            for (uint32_t tree = 1; tree < 3; tree++) {
                CHECK_OK(read_number(h->store, tree, key, UINT64_MAX - 1, &number, &err), &err);
                CHECK_EQ(number, paired);
            }
        }
    }
}

enum { WORKERS = WRITERS + 2 + 2 + 1 };

static void workers_start(shared *h, worker *workers)
{
    uint64_t rng = lk_test_seed();
    for (unsigned i = 0; i < WORKERS; i++) {
        void *(*run)(void *) =
            i < WRITERS
                ? write_run
                : (i < WRITERS + 2 ? read_run : (i < WRITERS + 4 ? snapshot_run : tend_run));
        workers[i] = (worker){.shared = h, .number = i, .rng = lk_test_rand(&rng) | 1};
        CHECK(pthread_create(&workers[i].thread, NULL, run, &workers[i]) == 0);
    }
}

static void workers_join(worker *workers)
{
    for (unsigned i = 0; i < WORKERS; i++) CHECK(pthread_join(workers[i].thread, NULL) == 0);
}

static void work_together(bool mapped)
{
    static shared h;
    worker workers[WORKERS];
    lk_store_options o = options_of(mapped);
    lk_error err;
    const char *dir = lk_test_dir();
    memset(&h, 0, sizeof h);
    CHECK_OK(lk_store_open(lk_env_posix(), dir, &o, &h.store, &err), &err);
    workers_start(&h, workers);
    usleep(ROUND_MS * 1000);
    atomic_store(&h.stop, true);
    workers_join(workers);
    CHECK(atomic_load(&h.writes) > 100 && atomic_load(&h.reads) > 100 && atomic_load(&h.scans) > 0);
    check_contents(&h);
    CHECK_OK(lk_store_close(h.store, &err), &err);
    lk_store_free(h.store);
    CHECK_OK(lk_store_open(lk_env_posix(), dir, &o, &h.store, &err), &err);
    check_contents(&h);
    CHECK_OK(lk_store_close(h.store, &err), &err);
    lk_store_free(h.store);
}

LK_TEST(threads_work_together_on_a_mapped_log) { work_together(true); }
LK_TEST(threads_work_together_on_a_written_log) { work_together(false); }

/* Who is inside when the store is closed comes to an end or is told; nothing acknowledged is lost. */
static void close_in_the_middle(bool mapped)
{
    for (int round = 0; round < 4; round++) {
        static shared h;
        worker workers[WORKERS];
        lk_store_options o = options_of(mapped);
        lk_error err;
        const char *dir = lk_test_dir();
        memset(&h, 0, sizeof h);
        CHECK_OK(lk_store_open(lk_env_posix(), dir, &o, &h.store, &err), &err);
        workers_start(&h, workers);
        usleep(60000 + (unsigned)round * 25000);
        CHECK_OK(lk_store_close(h.store, &err), &err);
        workers_join(workers);
        CHECK_EQ(atomic_load(&h.closed), WORKERS);
        lk_store_free(h.store);
        CHECK_OK(lk_store_open(lk_env_posix(), dir, &o, &h.store, &err), &err);
        check_contents(&h);
        CHECK_OK(lk_store_close(h.store, &err), &err);
        lk_store_free(h.store);
    }
}

LK_TEST(a_mapped_store_may_be_closed_in_the_middle) { close_in_the_middle(true); }
LK_TEST(a_written_store_may_be_closed_in_the_middle) { close_in_the_middle(false); }

/* ---- one segment, one hot key ---- */

/* Records wait for their index entry in a small ring. The hot key is written so that its tag comes
 * again in the place of an older record of its own while a younger one's place has another tag: a
 * reader that was held up in between (by a signal, until some records later) must not take the older one. */
enum { HOT_RECORDS = 300000, HOLD_EVERY = 300, HOLD_RECORDS = 50, HOT_READERS = 2 };

static bool is_hot(uint32_t ordinal)
{
    return ordinal % 8 == 0 || (ordinal % 8 == 3 && ordinal / LK_PENDING_MAX % 2 == 0);
}

typedef struct hot {
    lk_segment *segment;
    atomic_bool done;
} hot;

static hot *held;

static void hold_up(int number)
{
    (void)number;
    uint32_t from = atomic_load_explicit(&held->segment->published, memory_order_relaxed), now;
    do {
        now = atomic_load_explicit(&held->segment->published, memory_order_relaxed);
    } while (now < from + HOLD_RECORDS && !atomic_load_explicit(&held->done, memory_order_relaxed));
}

static uint32_t newest_hot(uint32_t visible)
{
    while (!is_hot(--visible)) {
    }
    return visible;
}

static void *hot_read(void *arg)
{
    hot *h = arg;
    const uint8_t *key = (const uint8_t *)"hot";
    uint64_t hash = lk_hash_key(0, key, 3), looks = 0;
    while (!atomic_load_explicit(&h->done, memory_order_relaxed)) {
        lk_record r;
        uint32_t ordinal, visible = lk_segment_visible(h->segment, UINT64_MAX);
        if (visible == 0) continue;
        if (visible > 40 && looks++ % 2 == 0) visible -= (uint32_t)(looks % 40);
        CHECK(lk_segment_find(h->segment, 0, key, 3, hash, visible, &r, &ordinal));
        CHECK_EQ(ordinal, newest_hot(visible));
        CHECK(r.key_len == 3 && r.value_len == 4 && lk_load32(r.value) == ordinal);
    }
    return NULL;
}

LK_TEST(a_reader_that_is_held_up_finds_the_newest_record_of_a_hot_key)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_error err;
    hot h = {.done = false};
    pthread_t readers[HOT_READERS];
    struct sigaction hold = {.sa_handler = hold_up}, before;
    held = &h;
    CHECK(sigaction(SIGUSR1, &hold, &before) == 0);
    CHECK_OK(lk_env_mkdir(lk_sim_env(sim), STORE_DIR, NULL, &err), &err);
    lk_segment_plan plan = {.env = lk_sim_env(sim),
                            .dir = STORE_DIR,
                            .generation = 1,
                            .capacity = HOT_RECORDS * 48 + 4096,
                            .expected = 10,
                            .mapped = true};
    CHECK_OK(lk_segment_prepare(&plan, NULL, &h.segment, &err), &err);
    CHECK_OK(lk_segment_activate(h.segment, 1, 0, 0, &err), &err);
    for (int i = 0; i < HOT_READERS; i++) {
        CHECK(pthread_create(&readers[i], NULL, hot_read, &h) == 0);
    }
    for (uint32_t i = 0; i < HOT_RECORDS; i++) {
        uint8_t key[4] = "hot", value[4];
        if (i % HOLD_EVERY == 0) CHECK(pthread_kill(readers[i / HOLD_EVERY % 2], SIGUSR1) == 0);
        uint32_t key_len = is_hot(i) ? 3 : 4;
        if (key_len == 4) lk_store32(key, i);
        lk_store32(value, i);
        CHECK_OK(lk_segment_put(h.segment, 0, LK_KIND_PUT, key, key_len, value, 4,
                                lk_hash_key(0, key, key_len), &err),
                 &err);
    }
    atomic_store(&h.done, true);
    for (int i = 0; i < HOT_READERS; i++) CHECK(pthread_join(readers[i], NULL) == 0);
    CHECK(sigaction(SIGUSR1, &before, NULL) == 0);
    lk_segment_unref(h.segment);
    lk_sim_free(sim);
}
