/* harness.h: the whole test framework of the C part; a test file includes it once.
 *
 * Owns      main(), the list of tests, the temporary directories, the seed.
 * Callers   every tests/c/test_<module>.c, each an executable of its own.
 * Threads   a failed check in the test's own thread ends that test; in any other thread it
 *           ends the process, because a jump across threads is undefined.
 * Always    a test's temporary directories are gone when the test is over, passed or failed.
 *
 *     #include "harness.h"
 *
 *     LK_TEST(block_keeps_order_of_keys)
 *     {
 *         uint64_t rng = lk_test_seed();
 *         lk_error err;
 *         CHECK_OK(lk_block_decode(..., &err), &err);
 *         CHECK_EQ(lk_block_rows(block), 3);
 *     }
 *
 * Command line: no argument runs all tests, each argument runs the test of that name, and
 * "--list" prints the names.
 * Environment: LK_SEED repeats a run, LK_TEST_SECONDS_MAX (120) bounds one test.
 */
#ifndef LK_TEST_HARNESS_H
#define LK_TEST_HARNESS_H

#include <ftw.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#if defined(__has_include)
#if __has_include("status.h")
#include "status.h"
#define LK_TEST_HAS_STATUS 1
#endif
#endif

#define LK_TEST_UNUSED __attribute__((unused))

enum { LK_TEST_DIRS_MAX = 16, LK_TEST_PATH_BYTES = 512 };

typedef struct lk_test_case {
    const char *name;
    void (*run)(void);
    struct lk_test_case *next;
} lk_test_case;

static struct {
    lk_test_case *first;
    lk_test_case *last;
    lk_test_case *running;
    jmp_buf leave; /* where a failed or skipped test goes on */
    pthread_t thread;
    uint64_t seed;
    char dirs[LK_TEST_DIRS_MAX][LK_TEST_PATH_BYTES];
    int dir_count;
} lk_test_state;

enum { LK_TEST_PASSED = 0, LK_TEST_FAILED = 1, LK_TEST_SKIPPED = 2 };

static void lk_test_register(lk_test_case *test)
{
    if (lk_test_state.last != NULL) {
        lk_test_state.last->next = test;
    } else {
        lk_test_state.first = test;
    }
    lk_test_state.last = test;
}

/* Declares a test and puts it into the list before main() runs. Names read as sentences. */
#define LK_TEST(test_name)                                                                         \
    static void test_name(void);                                                                   \
    static lk_test_case lk_test_case_##test_name = {#test_name, test_name, NULL};                  \
    __attribute__((constructor)) static void lk_test_register_##test_name(void)                    \
    {                                                                                              \
        lk_test_register(&lk_test_case_##test_name);                                               \
    }                                                                                              \
    static void test_name(void)

/* Reports a fault and ends the running test. */
__attribute__((noreturn, format(printf, 3, 4))) LK_TEST_UNUSED static void lk_test_fail(
    const char *file, int line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    if (!pthread_equal(pthread_self(), lk_test_state.thread)) {
        fprintf(stderr, "FAILED %s, in a thread of its own\n",
                lk_test_state.running != NULL ? lk_test_state.running->name : "?");
        fflush(NULL);
        _exit(1);
    }
    longjmp(lk_test_state.leave, LK_TEST_FAILED);
}

/* Ends the running test as neither passed nor failed; `why` names what this machine lacks. */
__attribute__((noreturn)) LK_TEST_UNUSED static void lk_test_skip(const char *why)
{
    printf("skip %s: %s\n", lk_test_state.running->name, why);
    longjmp(lk_test_state.leave, LK_TEST_SKIPPED);
}

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            lk_test_fail(__FILE__, __LINE__, "not true: %s", #cond);                               \
        }                                                                                          \
    } while (0)

/* Integers, enums and pointers of any width and sign; compare floats with CHECK. */
#define CHECK_EQ(a, b)                                                                             \
    lk_test_check_eq(__FILE__, __LINE__, #a, #b, (unsigned long long)(a), (unsigned long long)(b))

#define CHECK_STR_EQ(a, b) lk_test_check_str_eq(__FILE__, __LINE__, #a, #b, (a), (b))

#define CHECK_MEM_EQ(a, b, bytes)                                                                  \
    lk_test_check_mem_eq(__FILE__, __LINE__, #a, #b, (a), (b), (size_t)(bytes))

/* `expr` gives an lk_status, `err` points to the lk_error that it fills. LK_OK is zero. */
#define CHECK_OK(expr, err)                                                                        \
    do {                                                                                           \
        int lk_test_status = (int)(expr);                                                          \
        if (lk_test_status != 0) {                                                                 \
            lk_test_fail(__FILE__, __LINE__, "status %d from %s: %s", lk_test_status, #expr,       \
                         lk_test_error_text(err));                                                 \
        }                                                                                          \
    } while (0)

#ifdef LK_TEST_HAS_STATUS
LK_TEST_UNUSED static const char *lk_test_error_text(const lk_error *err)
{
    return err != NULL ? err->message : "(no error asked for)";
}
#else
LK_TEST_UNUSED static const char *lk_test_error_text(const void *err)
{
    (void)err;
    return "(status.h is not on the include path)";
}
#endif

LK_TEST_UNUSED static void lk_test_check_eq(const char *file, int line, const char *a_text,
                                            const char *b_text, unsigned long long a,
                                            unsigned long long b)
{
    if (a != b) {
        lk_test_fail(file, line,
                     "%s == %s does not hold:\n    left  %lld (0x%llx)\n"
                     "    right %lld (0x%llx)",
                     a_text, b_text, (long long)a, a, (long long)b, b);
    }
}

LK_TEST_UNUSED static void lk_test_check_str_eq(const char *file, int line, const char *a_text,
                                                const char *b_text, const char *a, const char *b)
{
    if (a == NULL || b == NULL ? a != b : strcmp(a, b) != 0) {
        lk_test_fail(file, line, "%s and %s differ:\n    left  \"%s\"\n    right \"%s\"", a_text,
                     b_text, a != NULL ? a : "(null)", b != NULL ? b : "(null)");
    }
}

LK_TEST_UNUSED static void lk_test_check_mem_eq(const char *file, int line, const char *a_text,
                                                const char *b_text, const void *a, const void *b,
                                                size_t bytes)
{
    const unsigned char *left = a;
    const unsigned char *right = b;
    for (size_t i = 0; i < bytes; i++) {
        if (left[i] != right[i]) {
            lk_test_fail(file, line, "%s and %s differ at byte %zu of %zu: 0x%02x, 0x%02x", a_text,
                         b_text, i, bytes, left[i], right[i]);
        }
    }
}

/* The seed of this run: every test starts its own generator from it, so that one test run
 * alone repeats what it did among the others. Never zero. */
LK_TEST_UNUSED static uint64_t lk_test_seed(void) { return lk_test_state.seed; }

/* Next number of an xorshift64* generator (Vigna 2016); `*state` must not be zero. */
LK_TEST_UNUSED static uint64_t lk_test_rand(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * UINT64_C(0x2545F4914F6CDD1D);
}

/* A number in [0, n), n > 0; the bias of the remainder does not matter to a test. */
LK_TEST_UNUSED static uint64_t lk_test_below(uint64_t *state, uint64_t n)
{
    return (lk_test_rand(state) >> 11) % n;
}

LK_TEST_UNUSED static void lk_test_fill(uint64_t *state, void *out, size_t bytes)
{
    unsigned char *p = out;
    for (size_t i = 0; i < bytes; i++) {
        p[i] = (unsigned char)(lk_test_rand(state) >> 56);
    }
}

/* A new empty directory under TMPDIR, removed with all it holds when the test ends. */
LK_TEST_UNUSED static const char *lk_test_dir(void)
{
    const char *base = getenv("TMPDIR");
    CHECK(lk_test_state.dir_count < LK_TEST_DIRS_MAX);
    char *path = lk_test_state.dirs[lk_test_state.dir_count];
    int length = snprintf(path, LK_TEST_PATH_BYTES, "%s/lsmkit-test-XXXXXX",
                          base != NULL && base[0] != '\0' ? base : "/tmp");
    CHECK(length > 0 && length < LK_TEST_PATH_BYTES);
    if (mkdtemp(path) == NULL) {
        lk_test_fail(__FILE__, __LINE__, "cannot make a directory: %s", path);
    }
    lk_test_state.dir_count++;
    return path;
}

/* Writes "dir/name" to out, of LK_TEST_PATH_BYTES, and returns it. */
LK_TEST_UNUSED static char *lk_test_path(char *out, const char *dir, const char *name)
{
    int length = snprintf(out, LK_TEST_PATH_BYTES, "%s/%s", dir, name);
    CHECK(length > 0 && length < LK_TEST_PATH_BYTES);
    return out;
}

static int lk_test_remove_entry(const char *path, const struct stat *info, int kind,
                                struct FTW *walk)
{
    (void)info;
    (void)kind;
    (void)walk;
    return remove(path);
}

static void lk_test_remove_dirs(void)
{
    while (lk_test_state.dir_count > 0) {
        const char *path = lk_test_state.dirs[--lk_test_state.dir_count];
        if (nftw(path, lk_test_remove_entry, 16, FTW_DEPTH | FTW_PHYS) != 0) {
            fprintf(stderr, "warning: cannot remove %s\n", path);
        }
    }
}

/* Names the test in which the process dies; only calls that a signal handler may make. */
static void lk_test_on_signal(int number)
{
    const char *why = number == SIGALRM ? "TIMEOUT in " : "CRASH in ";
    const char *name = lk_test_state.running != NULL ? lk_test_state.running->name : "?";
    ssize_t written = write(STDERR_FILENO, why, strlen(why));
    written += write(STDERR_FILENO, name, strlen(name));
    written += write(STDERR_FILENO, "\n", 1);
    (void)written;
    signal(number, SIG_DFL);
    raise(number);
}

static unsigned lk_test_seconds_max(void)
{
    const char *text = getenv("LK_TEST_SECONDS_MAX");
    return text != NULL ? (unsigned)strtoul(text, NULL, 10) : 120;
}

static int lk_test_run(lk_test_case *test)
{
    lk_test_state.running = test;
    alarm(lk_test_seconds_max());
    int outcome = setjmp(lk_test_state.leave);
    if (outcome == 0) {
        test->run();
    }
    alarm(0);
    if (outcome == LK_TEST_FAILED) {
        printf("FAILED %s\n", test->name);
    } else if (outcome == LK_TEST_PASSED) {
        printf("ok %s\n", test->name);
    }
    lk_test_remove_dirs();
    lk_test_state.running = NULL;
    return outcome;
}

static uint64_t lk_test_choose_seed(void)
{
    const char *text = getenv("LK_SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t seed = text != NULL ? strtoull(text, NULL, 0)
                                 : ((uint64_t)now.tv_nsec << 20) ^ (uint64_t)now.tv_sec ^
                                       ((uint64_t)getpid() << 40);
    return seed != 0 ? seed : 1;
}

static int lk_test_is_chosen(const lk_test_case *test, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], test->name) == 0) {
            return 1;
        }
    }
    return argc <= 1;
}

int main(int argc, char **argv)
{
    int counts[3] = {0, 0, 0};
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (lk_test_case *test = lk_test_state.first; test != NULL; test = test->next) {
            printf("%s\n", test->name);
        }
        return 0;
    }
    lk_test_state.thread = pthread_self();
    lk_test_state.seed = lk_test_choose_seed();
    signal(SIGALRM, lk_test_on_signal);
    signal(SIGABRT, lk_test_on_signal);
    printf("seed LK_SEED=%llu\n", (unsigned long long)lk_test_state.seed);
    for (lk_test_case *test = lk_test_state.first; test != NULL; test = test->next) {
        if (lk_test_is_chosen(test, argc, argv)) {
            counts[lk_test_run(test)]++;
        }
    }
    if (counts[LK_TEST_SKIPPED] > 0) {
        printf("%d skipped\n", counts[LK_TEST_SKIPPED]);
    }
    printf("%d passed, %d failed\n", counts[LK_TEST_PASSED], counts[LK_TEST_FAILED]);
    /* A name that matches nothing is a typing mistake, not a success. */
    int ran = counts[0] + counts[1] + counts[2];
    return counts[LK_TEST_FAILED] > 0 || ran == 0 ? 1 : 0;
}

#endif
