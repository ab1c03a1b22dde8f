/* test_thread_prove.c: threads that look for keys in a segment while it is being proved help each
 * other, and each gets the newest version of its key.
 *
 * Method: a log of some thousand frames on a simulated machine, recovered anew for each round, with
 * tiny pieces; then every thread looks for keys at random and one wants all of it proved. Under the
 * thread sanitizer too.
 */
#include "harness.h"

#include "log_fixture.h"

enum { THREADS = 4, ROUNDS = 6, FRAMES = 3000, KEYS = 500, LATE_MIN = 8192 };

typedef struct worker {
    lk_segment *segment;
    uint32_t newest[KEYS]; /* ordinal of each key's newest version */
    uint32_t count;
    uint64_t rng;
    bool finishes;
    pthread_t thread;
} worker;

static void key_of(uint32_t i, char *out) { (void)snprintf(out, 16, "key%05u", i); }

static void *run(void *arg)
{
    worker *w = arg;
    lk_error err;
    for (uint32_t i = 0; i < 200 && !w->finishes; i++) {
        char key[16];
        uint32_t k = (uint32_t)lk_test_below(&w->rng, KEYS), ordinal;
        bool found;
        lk_record r;
        key_of(k, key);
        const uint8_t *bytes = (const uint8_t *)key;
        CHECK_OK(lk_proof_find(w->segment, 0, bytes, strlen(key),
                               lk_hash_key(0, bytes, strlen(key)), w->count, &found, &r, &ordinal,
                               &err),
                 &err);
        CHECK_EQ(found, w->newest[k] != UINT32_MAX);
        if (found) CHECK_EQ(ordinal, w->newest[k]);
    }
    CHECK_OK(lk_proof_finish(w->segment, &err), &err);
    CHECK(!lk_proof_is_open(w->segment));
    return NULL;
}

LK_TEST(threads_that_prove_together_find_the_newest_versions)
{
    static worker workers[THREADS];
    uint64_t rng = lk_test_seed();
    log l = log_new(true, 512 << 10);
    log_rotate(&l);
    uint32_t newest[KEYS];
    memset(newest, 0xFF, sizeof newest);
    for (uint32_t i = 0; i < FRAMES; i++) {
        uint32_t key = (uint32_t)lk_test_below(&rng, KEYS - 10);
        newest[key] = l.record_count;
        log_put(&l, 0, key);
    }
    log_kill(&l);
    for (int round = 0; round < ROUNDS; round++) {
        lk_error err;
        lk_recovery r;
        CHECK_OK(lk_recover_late(l.env, LOG_DIR, l.manifest, true, false, LATE_MIN, &r, &err),
                 &err);
        CHECK(lk_proof_is_open(r.segments[0]));
        for (int i = 0; i < THREADS; i++) {
            worker *w = &workers[i];
            *w = (worker){.segment = r.segments[0], .count = FRAMES, .finishes = i == 0};
            w->rng = lk_test_rand(&rng);
            memcpy(w->newest, newest, sizeof newest);
            CHECK_EQ(pthread_create(&w->thread, NULL, run, w), 0);
        }
        for (int i = 0; i < THREADS; i++) CHECK_EQ(pthread_join(workers[i].thread, NULL), 0);
        log_check_recovery(&l, &r);
        lk_recovery_deinit(&r);
    }
    log_free(&l);
}
