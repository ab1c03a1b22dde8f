/* The real machine's environment keeps what env.h promises: whole reads and writes, real blocks,
 * mappings that children do not see, one owner of a lock file across and within processes.
 *
 * Method: on files in a temporary directory; other processes are forked, and tell by their exit
 * status what they found.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include "env.h"
#include "harness.h"

#if defined(__linux__)
/* Stands before the C library's: so that a file system without it can be played. */
static bool has_fallocate = true;
int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    if (has_fallocate) return (int)syscall(SYS_fallocate, fd, mode, offset, bytes);
    errno = EOPNOTSUPP;
    return -1;
}
#endif

static lk_env *env(void) { return lk_env_posix(); }

static lk_file *open_new(const char *path)
{
    lk_error err;
    lk_file *file = NULL;
    CHECK_OK(lk_env_open(env(), path, LK_OPEN_WRITE | LK_OPEN_CREATE, &file, &err), &err);
    CHECK_STR_EQ(lk_file_path(file), path);
    return file;
}

static void write_all(lk_file *file, uint64_t offset, const char *text)
{
    lk_error err;
    CHECK_OK(lk_file_write(file, offset, text, strlen(text), &err), &err);
}

static uint64_t size_of(lk_file *file)
{
    lk_error err;
    uint64_t bytes = 0;
    CHECK_OK(lk_file_size(file, &bytes, &err), &err);
    return bytes;
}

/* Runs `act` in a child and gives what it returned; 255 stands for a child that died. */
static int in_child(int (*act)(void *), void *arg)
{
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) _exit(act(arg));
    int status = 0;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

/* ---- opening ---- */

LK_TEST(test_open_makes_refuses_and_empties_as_its_flags_say)
{
    char path[LK_TEST_PATH_BYTES];
    lk_error err;
    lk_file *file = NULL;
    lk_test_path(path, lk_test_dir(), "a");
    CHECK_EQ(lk_env_open(env(), path, LK_OPEN_READ, &file, &err), LK_NOT_FOUND);
    CHECK(file == NULL);
    CHECK_EQ(err.sys_errno, ENOENT);
    CHECK_STR_EQ(err.path, path);
    int make = LK_OPEN_WRITE | LK_OPEN_CREATE | LK_OPEN_EXCLUSIVE;
    CHECK_OK(lk_env_open(env(), path, make, &file, &err), &err);
    write_all(file, 0, "four");
    lk_file_close(file);
    CHECK_EQ(lk_env_open(env(), path, make, &file, &err), LK_EXISTS);
    CHECK_OK(lk_env_open(env(), path, LK_OPEN_READ, &file, &err), &err);
    CHECK_EQ(size_of(file), 4);
    CHECK_EQ(lk_file_write(file, 0, "x", 1, &err), LK_IO);
    CHECK_EQ(err.sys_errno, EBADF);
    lk_file_close(file);
    CHECK_OK(lk_env_open(env(), path, LK_OPEN_WRITE | LK_OPEN_TRUNCATE, &file, &err), &err);
    CHECK_EQ(size_of(file), 0);
    lk_file_close(file);
    lk_file_close(NULL);
}

LK_TEST(test_open_refuses_flags_that_do_not_go_together)
{
    const int senseless[] = {0,
                             LK_OPEN_CREATE,
                             LK_OPEN_READ | LK_OPEN_CREATE,
                             LK_OPEN_READ | LK_OPEN_TRUNCATE,
                             LK_OPEN_WRITE | LK_OPEN_EXCLUSIVE,
                             LK_OPEN_READ | 64};
    char path[LK_TEST_PATH_BYTES];
    lk_test_path(path, lk_test_dir(), "a");
    for (size_t i = 0; i < sizeof senseless / sizeof *senseless; i++) {
        lk_error err;
        lk_file *file = NULL;
        CHECK_EQ(lk_env_open(env(), path, senseless[i], &file, &err), LK_INVALID);
        CHECK(file == NULL);
    }
    lk_error err;
    lk_file *file = NULL;
    CHECK_EQ(lk_env_open(env(), "", LK_OPEN_READ, &file, &err), LK_INVALID);
}

LK_TEST(test_open_refuses_symbolic_links_directories_and_pipes)
{
    char path[LK_TEST_PATH_BYTES], other[LK_TEST_PATH_BYTES];
    const char *dir = lk_test_dir();
    lk_error err;
    lk_file *file = NULL;
    lk_file_close(open_new(lk_test_path(path, dir, "file")));
    CHECK_EQ(symlink(path, lk_test_path(other, dir, "symbolic")), 0);
    CHECK_EQ(lk_env_open(env(), other, LK_OPEN_WRITE | LK_OPEN_CREATE, &file, &err), LK_IO);
    CHECK_EQ(err.sys_errno, ELOOP);
    CHECK_EQ(mkfifo(lk_test_path(other, dir, "pipe"), 0600), 0);
    CHECK_EQ(lk_env_open(env(), other, LK_OPEN_READ, &file, &err), LK_IO);
    CHECK_EQ(err.sys_errno, EINVAL);
    CHECK_EQ(lk_env_open(env(), dir, LK_OPEN_READ, &file, &err), LK_IO);
    CHECK_EQ(err.sys_errno, EISDIR);
    CHECK(file == NULL);
}

LK_TEST(test_files_are_closed_on_exec_and_obey_the_umask)
{
    char path[LK_TEST_PATH_BYTES];
    struct stat info;
    int before = open("/dev/null", O_RDONLY); /* the number that the file will get */
    CHECK(before >= 0);
    CHECK_EQ(close(before), 0);
    mode_t mask = umask(027);
    lk_file *file = open_new(lk_test_path(path, lk_test_dir(), "a"));
    (void)umask(mask);
    CHECK((fcntl(before, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK_EQ(stat(path, &info), 0);
    CHECK_EQ(info.st_mode & 0777, 0640);
    lk_file_close(file);
}

/* ---- content ---- */

LK_TEST(test_what_is_written_is_read_back_and_reads_end_with_the_file)
{
    char path[LK_TEST_PATH_BYTES], buf[32];
    size_t got = 0;
    lk_error err;
    lk_file *file = open_new(lk_test_path(path, lk_test_dir(), "a"));
    write_all(file, 3, "hello");
    CHECK_OK(lk_file_read(file, 0, buf, sizeof buf, &got, &err), &err);
    CHECK_EQ(got, 8);
    CHECK_MEM_EQ(buf, "\0\0\0hello", 8);
    CHECK_OK(lk_file_read(file, 8, buf, sizeof buf, &got, &err), &err);
    CHECK_EQ(got, 0);
    CHECK_OK(lk_file_read_exact(file, 4, buf, 4, &err), &err);
    CHECK_MEM_EQ(buf, "ello", 4);
    CHECK_EQ(lk_file_read_exact(file, 4, buf, 9, &err), LK_CORRUPT);
    CHECK_EQ(err.offset, 4);
    CHECK_EQ(err.expected, 9);
    CHECK_EQ(err.found, 4);
    CHECK(strstr(err.message, path) != NULL);
    lk_file_close(file);
}

LK_TEST(test_ranges_that_no_file_has_are_refused)
{
    char path[LK_TEST_PATH_BYTES], buf[16];
    size_t got = 1;
    lk_error err;
    uint8_t *map = NULL;
    lk_file *file = open_new(lk_test_path(path, lk_test_dir(), "a"));
    CHECK_EQ(lk_file_read(file, UINT64_MAX - 4, buf, 16, &got, &err), LK_INVALID);
    CHECK_EQ(got, 0);
    CHECK_EQ(lk_file_read(file, INT64_MAX - 4, buf, 16, &got, &err), LK_INVALID);
    CHECK_EQ(lk_file_write(file, UINT64_MAX, buf, 2, &err), LK_INVALID);
    CHECK_EQ(lk_file_truncate(file, UINT64_MAX, &err), LK_INVALID);
    CHECK_EQ(lk_file_allocate(file, UINT64_MAX, &err), LK_INVALID);
    CHECK_EQ(lk_file_map(file, 0, false, &map, &err), LK_INVALID);
    lk_file_writeback(file, UINT64_MAX, UINT64_MAX);
    CHECK_EQ(size_of(file), 0);
    lk_file_close(file);
}

LK_TEST(test_a_write_that_the_system_cuts_short_is_an_error_with_its_place)
{
    char path[LK_TEST_PATH_BYTES];
    static char buf[3 * 4096];
    struct rlimit before, small;
    lk_error err;
    lk_file *file = open_new(lk_test_path(path, lk_test_dir(), "a"));
    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 5000;
    (void)signal(SIGXFSZ, SIG_IGN);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    lk_status st = lk_file_write(file, 0, buf, sizeof buf, &err);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    CHECK_EQ(st, LK_IO);
    CHECK_EQ(err.sys_errno, EFBIG);
    CHECK_EQ(err.offset, 5000);
    CHECK_EQ(size_of(file), 5000);
    lk_file_close(file);
}

LK_TEST(test_allocate_gives_blocks_and_keeps_what_was_there)
{
    char path[LK_TEST_PATH_BYTES], buf[4];
    struct stat info;
    lk_error err;
    lk_file *file = open_new(lk_test_path(path, lk_test_dir(), "a"));
    write_all(file, 100000, "kept");
    CHECK_OK(lk_file_allocate(file, 1 << 20, &err), &err);
    CHECK_EQ(size_of(file), 1 << 20);
    CHECK_EQ(stat(path, &info), 0);
    CHECK(info.st_blocks * 512 >= 1 << 20);
    CHECK_OK(lk_file_read_exact(file, 100000, buf, 4, &err), &err);
    CHECK_MEM_EQ(buf, "kept", 4);
    CHECK_OK(lk_file_allocate(file, 4096, &err), &err); /* never makes it shorter */
    CHECK_EQ(size_of(file), 1 << 20);
    lk_file_close(file);
}

LK_TEST(test_allocate_writes_where_the_file_system_cannot_allocate)
{
#if !defined(__linux__)
    lk_test_skip("writing is the only way there, and tested above");
#else
    char path[LK_TEST_PATH_BYTES], buf[8];
    struct stat info;
    lk_error err;
    lk_file *file = open_new(lk_test_path(path, lk_test_dir(), "a"));
    write_all(file, 0, "one");
    write_all(file, 200000, "kept"); /* behind a hole, and the end of the file */
    has_fallocate = false;
    lk_status st = lk_file_allocate(file, 1 << 20, &err);
    has_fallocate = true;
    CHECK_OK(st, &err);
    CHECK_EQ(size_of(file), 1 << 20);
    CHECK_EQ(stat(path, &info), 0);
    CHECK(info.st_blocks * 512 >= 1 << 20);
    CHECK_OK(lk_file_read_exact(file, 200000, buf, 8, &err), &err);
    CHECK_MEM_EQ(buf, "kept\0\0\0\0", 8);
    CHECK_OK(lk_file_read_exact(file, 0, buf, 8, &err), &err);
    CHECK_MEM_EQ(buf, "one\0\0\0\0\0", 8);
    lk_file_close(file);
#endif
}

LK_TEST(test_truncate_sync_and_links)
{
    char path[LK_TEST_PATH_BYTES], other[LK_TEST_PATH_BYTES];
    const char *dir = lk_test_dir();
    uint64_t links = 0;
    lk_error err;
    lk_file *file = open_new(lk_test_path(path, dir, "a"));
    write_all(file, 0, "hello");
    CHECK_OK(lk_file_truncate(file, 2, &err), &err);
    CHECK_EQ(size_of(file), 2);
    CHECK_OK(lk_file_sync(file, &err), &err);
    CHECK_OK(lk_file_datasync(file, &err), &err);
    lk_file_writeback(file, 0, 2);
    CHECK_OK(lk_env_link(env(), path, lk_test_path(other, dir, "b"), &err), &err);
    CHECK_OK(lk_file_links(file, &links, &err), &err);
    CHECK_EQ(links, 2);
    CHECK_OK(lk_env_unlink(env(), other, &err), &err);
    CHECK_OK(lk_env_unlink(env(), path, &err), &err);
    CHECK_OK(lk_file_links(file, &links, &err), &err);
    CHECK_EQ(links, 0);
    lk_file_close(file);
}

/* ---- memory ---- */

LK_TEST(test_stores_into_a_mapping_are_in_the_file)
{
    char path[LK_TEST_PATH_BYTES], buf[5];
    uint8_t *map = NULL, *view = NULL;
    lk_error err;
    lk_file *file = open_new(lk_test_path(path, lk_test_dir(), "a"));
    CHECK_EQ(lk_file_map(file, 8192, true, &map, &err), LK_CORRUPT);
    CHECK_EQ(err.expected, 8192);
    CHECK_EQ(err.found, 0);
    CHECK_OK(lk_file_allocate(file, 8192, &err), &err);
    CHECK_OK(lk_file_map(file, 8192, true, &map, &err), &err);
    CHECK_OK(lk_file_map(file, 5000, false, &view, &err), &err);
    lk_env_populate(env(), map, 8192, true);
    lk_env_populate(env(), view, 5000, false);
    memcpy(map + 4094, "store", 5);
    CHECK_OK(lk_file_read_exact(file, 4094, buf, 5, &err), &err);
    CHECK_MEM_EQ(buf, "store", 5);
    CHECK_MEM_EQ(view + 4094, "store", 5);
    write_all(file, 0, "write");
    CHECK_MEM_EQ(map, "write", 5);
#if defined(__linux__)
    struct rusage before, after;
    lk_env_evict(env(), map, 8192);
    CHECK_EQ(getrusage(RUSAGE_SELF, &before), 0);
    CHECK_MEM_EQ(map + 4094, "store", 5); /* the file kept it */
    CHECK_EQ(getrusage(RUSAGE_SELF, &after), 0);
    CHECK(after.ru_minflt > before.ru_minflt); /* and the process did not */
#endif
    lk_env_unmap(env(), map, 8192);
    lk_env_unmap(env(), view, 5000);
    lk_env_unmap(env(), NULL, 0);
    lk_file_close(file);
}

static int store_byte(void *at)
{
    (void)signal(SIGSEGV, SIG_DFL);
    (void)signal(SIGBUS, SIG_DFL);
    struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
    *(volatile uint8_t *)at = 1;
    return 0;
}

typedef struct detached {
    lk_file *file;
    uint8_t *map;
} detached;

/* A store into what was protected, seen from inside a child that makes the mapping itself, because
 * it would not have that of its parent. */
static int store_into_protected(void *arg)
{
    detached *d = arg;
    lk_error err;
    if (lk_file_map(d->file, 4096, true, &d->map, &err) != LK_OK) return 1;
    d->map[0] = 'a';
    if (lk_env_protect(env(), d->map, 4096, &err) != LK_OK) return 2;
    if (d->map[0] != 'a') return 3;
    if (lk_env_unprotect(env(), d->map, 4096, &err) != LK_OK) return 4;
    d->map[0] = 'b';
    if (lk_env_protect(env(), d->map, 4096, &err) != LK_OK) return 5;
    (void)store_byte(d->map);
    return 6;
}

LK_TEST(test_a_store_into_a_protected_mapping_is_fatal)
{
    char path[LK_TEST_PATH_BYTES], byte = 0;
    lk_error err;
    detached d = {.file = open_new(lk_test_path(path, lk_test_dir(), "a"))};
    CHECK_OK(lk_file_allocate(d.file, 4096, &err), &err);
    int outcome = in_child(store_into_protected, &d);
    /* Sanitizers turn the signal into an exit of their own. */
    CHECK(outcome > 6);
    CHECK_OK(lk_file_read_exact(d.file, 0, &byte, 1, &err), &err);
    CHECK_EQ(byte, 'b');
    lk_file_close(d.file);
}

LK_TEST(test_children_do_not_have_the_mappings)
{
#if !defined(__linux__)
    lk_test_skip("only Linux keeps them out for certain");
#endif
    char path[LK_TEST_PATH_BYTES];
    uint8_t *map = NULL, *memory = NULL;
    lk_error err;
    lk_file *file = open_new(lk_test_path(path, lk_test_dir(), "a"));
    CHECK_OK(lk_file_allocate(file, 4096, &err), &err);
    CHECK_OK(lk_file_map(file, 4096, true, &map, &err), &err);
    CHECK_OK(lk_env_map_anonymous(env(), 4096, &memory, &err), &err);
    CHECK_EQ(memory[4095], 0);
    memory[0] = 1;
    CHECK(in_child(store_byte, map) != 0);
    CHECK(in_child(store_byte, memory) != 0);
    CHECK_EQ(map[0], 0);
    lk_env_unmap(env(), map, 4096);
    lk_env_unmap(env(), memory, 4096);
    lk_file_close(file);
}

LK_TEST(test_a_detached_mapping_keeps_its_content_and_leaves_the_file_alone)
{
#if !defined(__linux__)
    lk_test_skip("mremap is Linux's");
#endif
    char path[LK_TEST_PATH_BYTES], buf[6];
    const size_t bytes = 3 * 4096;
    uint8_t *map = NULL;
    lk_error err;
    lk_file *file = open_new(lk_test_path(path, lk_test_dir(), "a"));
    CHECK_OK(lk_file_allocate(file, bytes, &err), &err);
    CHECK_OK(lk_file_map(file, bytes, true, &map, &err), &err);
    memcpy(map + 5000, "before", 6);
    CHECK_OK(lk_env_protect(env(), map, bytes, &err), &err);
    CHECK_OK(lk_env_detach(env(), map, bytes, &err), &err);
    CHECK_MEM_EQ(map + 5000, "before", 6);
    write_all(file, 5000, "file's");
    CHECK_MEM_EQ(map + 5000, "before", 6);
    memcpy(map + 5000, "memory", 6);
    CHECK_OK(lk_file_read_exact(file, 5000, buf, 6, &err), &err);
    CHECK_MEM_EQ(buf, "file's", 6);
    lk_env_unmap(env(), map, bytes);
    lk_file_close(file);
}

/* ---- names ---- */

LK_TEST(test_names_are_made_listed_in_order_renamed_and_removed)
{
    char sub[LK_TEST_PATH_BYTES], path[LK_TEST_PATH_BYTES], other[LK_TEST_PATH_BYTES];
    const char *dir = lk_test_dir();
    bool existed = true, exists = false, is_dir = false;
    lk_names names;
    lk_error err;
    lk_test_path(sub, dir, "sub");
    CHECK_OK(lk_env_mkdir(env(), sub, &existed, &err), &err);
    CHECK(!existed);
    CHECK_OK(lk_env_mkdir(env(), sub, &existed, &err), &err);
    CHECK(existed);
    CHECK_OK(lk_env_mkdir(env(), sub, NULL, &err), &err);
    for (int i = 0; i < 9; i++) {
        char name[2] = {"hcaebgdif"[i], '\0'};
        lk_file_close(open_new(lk_test_path(path, sub, name)));
    }
    CHECK_OK(
        lk_env_rename(env(), lk_test_path(path, sub, "a"), lk_test_path(other, sub, "z"), &err),
        &err);
    CHECK_OK(lk_env_rename(env(), lk_test_path(path, sub, "b"), other, &err), &err);
    CHECK_OK(lk_env_sync_dir(env(), sub, &err), &err);
    CHECK_OK(lk_env_list(env(), sub, &names, &err), &err);
    CHECK_EQ(names.count, 8);
    for (size_t i = 0; i < 8; i++) CHECK_EQ(names.names[i][0], "cdefghiz"[i]);
    lk_names_free(&names);
    CHECK_EQ(names.count, 0);
    CHECK_OK(lk_env_exists(env(), sub, &exists, &is_dir, &err), &err);
    CHECK(exists && is_dir);
    CHECK_OK(lk_env_exists(env(), other, &exists, &is_dir, &err), &err);
    CHECK(exists && !is_dir);
    CHECK_OK(lk_env_exists(env(), path, &exists, NULL, &err), &err);
    CHECK(!exists);
    CHECK_EQ(lk_env_rmdir(env(), sub, &err), LK_IO);
    CHECK_EQ(err.sys_errno, ENOTEMPTY);
}

LK_TEST(test_absent_and_present_names_have_a_status_of_their_own)
{
    char path[LK_TEST_PATH_BYTES], other[LK_TEST_PATH_BYTES];
    const char *dir = lk_test_dir();
    bool existed = true;
    lk_names names;
    lk_error err;
    lk_file_close(open_new(lk_test_path(path, dir, "file")));
    lk_test_path(other, dir, "absent");
    CHECK_EQ(lk_env_unlink(env(), other, &err), LK_NOT_FOUND);
    CHECK_EQ(lk_env_rmdir(env(), other, &err), LK_NOT_FOUND);
    CHECK_EQ(lk_env_rename(env(), other, path, &err), LK_NOT_FOUND);
    CHECK_EQ(lk_env_link(env(), other, path, &err), LK_NOT_FOUND);
    CHECK_EQ(lk_env_sync_dir(env(), other, &err), LK_NOT_FOUND);
    CHECK_EQ(lk_env_list(env(), other, &names, &err), LK_NOT_FOUND);
    CHECK_EQ(names.count, 0);
    CHECK_EQ(lk_env_mkdir(env(), path, &existed, &err), LK_EXISTS);
    CHECK(!existed);
    lk_file_close(open_new(other));
    CHECK_EQ(lk_env_link(env(), path, other, &err), LK_EXISTS);
    CHECK_STR_EQ(err.path, other);
}

/* ---- one owner ---- */

static int try_lock(void *path)
{
    lk_error err;
    lk_lock_file *lock = NULL;
    lk_status st = lk_env_lock(env(), path, &lock, &err);
    if (st == LK_LOCKED && err.found == (uint64_t)getppid() && err.offset > 1600000000) return 1;
    return st == LK_OK ? 0 : 2;
}

LK_TEST(test_a_lock_has_one_owner_within_and_across_processes)
{
    char path[LK_TEST_PATH_BYTES], text[64] = "";
    lk_lock_file *lock = NULL, *second = NULL;
    size_t got = 0;
    lk_error err;
    lk_file *file = NULL;
    lk_test_path(path, lk_test_dir(), "LOCK");
    CHECK_OK(lk_env_lock(env(), path, &lock, &err), &err);
    CHECK_EQ(lk_env_lock(env(), path, &second, &err), LK_LOCKED);
    CHECK(second == NULL);
    CHECK_EQ(err.found, getpid());
    CHECK(err.offset + 60 > (uint64_t)time(NULL));
    (void)snprintf(text, sizeof text, "process %ld since second %llu", (long)getpid(),
                   (unsigned long long)err.offset);
    CHECK(strstr(err.message, text) != NULL);
    /* The refusal has not lost the lock to other processes. */
    CHECK_EQ(in_child(try_lock, path), 1);
    lk_env_unlock(lock);
    CHECK_EQ(in_child(try_lock, path), 0);
    CHECK_OK(lk_env_lock(env(), path, &lock, &err), &err);
    lk_env_unlock(lock);
    CHECK_OK(lk_env_open(env(), path, LK_OPEN_READ, &file, &err), &err);
    CHECK_OK(lk_file_read(file, 0, text, sizeof text - 1, &got, &err), &err);
    text[got] = '\0';
    long pid = 0;
    unsigned long long since = 0;
    char end = 0;
    CHECK_EQ(sscanf(text, "%ld %llu%c", &pid, &since, &end), 3);
    CHECK_EQ(pid, getpid());
    CHECK_EQ(end, '\n');
    lk_file_close(file);
    lk_env_unlock(NULL);
}

typedef struct inherited {
    lk_lock_file *lock;
    char *path;
    int descriptor;
} inherited;

static int unlock_then_try(void *arg)
{
    const inherited *i = arg;
    lk_env_unlock(i->lock);
    /* A child may have given the number to another file by now: it is not closed. */
    if (fcntl(i->descriptor, F_GETFD) == -1) return 3;
    return try_lock(i->path);
}

LK_TEST(test_a_child_that_unlocks_leaves_its_parents_lock)
{
    char path[LK_TEST_PATH_BYTES];
    lk_lock_file *lock = NULL;
    lk_error err;
    lk_test_path(path, lk_test_dir(), "LOCK");
    int next = open("/dev/null", O_RDONLY); /* the number that the lock file will get */
    CHECK(next >= 0);
    CHECK_EQ(close(next), 0);
    CHECK_OK(lk_env_lock(env(), path, &lock, &err), &err);
    inherited i = {lock, path, next};
    CHECK_EQ(in_child(unlock_then_try, &i), 1);
    CHECK_EQ(in_child(try_lock, path), 1);
    lk_env_unlock(lock);
}

static int lock_and_die(void *path)
{
    lk_error err;
    lk_lock_file *lock = NULL;
    if (lk_env_lock(env(), path, &lock, &err) != LK_OK) return 1;
    (void)raise(SIGKILL);
    return 2;
}

LK_TEST(test_a_lock_goes_with_a_killed_process)
{
    char path[LK_TEST_PATH_BYTES];
    lk_lock_file *lock = NULL;
    lk_error err;
    lk_test_path(path, lk_test_dir(), "LOCK");
    CHECK_EQ(in_child(lock_and_die, path), 255);
    CHECK_OK(lk_env_lock(env(), path, &lock, &err), &err);
    lk_env_unlock(lock);
}

LK_TEST(test_a_lock_is_found_under_another_name_of_its_file)
{
    char path[LK_TEST_PATH_BYTES], other[LK_TEST_PATH_BYTES];
    const char *dir = lk_test_dir();
    lk_lock_file *lock = NULL, *second = NULL;
    lk_error err;
    lk_test_path(path, dir, "LOCK");
    CHECK_OK(lk_env_lock(env(), path, &lock, &err), &err);
    CHECK_OK(lk_env_link(env(), path, lk_test_path(other, dir, "SAME"), &err), &err);
    CHECK_EQ(lk_env_lock(env(), other, &second, &err), LK_LOCKED);
    CHECK_EQ(in_child(try_lock, path), 1);
    lk_env_unlock(lock);
}

/* ---- time, chance, machine ---- */

LK_TEST(test_clocks_chance_and_boot)
{
    uint8_t a[64] = {0}, b[64] = {0}, boot[16], again[16];
    uint64_t first_ns = lk_env_now_ns(env());
    uint64_t wall_us = lk_env_wall_us(env());
    CHECK(lk_env_now_ns(env()) >= first_ns);
    CHECK(wall_us / 1000000 + 5 > (uint64_t)time(NULL));
    CHECK(wall_us / 1000000 < (uint64_t)time(NULL) + 5);
    lk_env_random(env(), a, sizeof a);
    lk_env_random(env(), b, sizeof b);
    CHECK(memcmp(a, b, sizeof a) != 0);
    CHECK(memcmp(a, a + 32, 32) != 0);
    lk_env_boot_id(env(), boot);
    lk_env_boot_id(env(), again);
    CHECK_MEM_EQ(boot, again, 16);
#if defined(__linux__)
    FILE *proc = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (proc == NULL) lk_test_skip("no /proc");
    char text[64] = "", hex[33] = "";
    CHECK(fgets(text, sizeof text, proc) != NULL);
    CHECK_EQ(fclose(proc), 0);
    for (int i = 0; i < 16; i++) (void)snprintf(hex + 2 * i, 3, "%02x", boot[i]);
    size_t at = 0;
    for (const char *p = text; *p != '\0' && *p != '\n'; p++) {
        if (*p != '-') CHECK_EQ(*p, hex[at++]);
    }
    CHECK_EQ(at, 32);
#endif
}

LK_TEST(test_only_known_file_systems_may_be_mapped)
{
    CHECK(!lk_env_may_map(env(), "/absent/absent"));
#if defined(__linux__)
    CHECK(!lk_env_may_map(env(), "/proc"));
#endif
}
