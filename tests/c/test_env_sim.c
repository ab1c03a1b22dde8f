/* The simulated machine fails where it is told to, and keeps of a disk what a real one would keep:
 * all that was synced, and of the rest some.
 *
 * Method: each rule of survival by the smallest program that shows it; and a random program whose
 * files are checked page by page against what was synced and what was written.
 */
#include <errno.h>
#include <stdatomic.h>

#include "env_sim.h"
#include "harness.h"

enum { PAGE = LK_PAGE_BYTES };

static lk_sim *sim_new(uint64_t seed)
{
    lk_sim *sim = lk_sim_new(seed);
    CHECK(sim != NULL);
    return sim;
}

static lk_sim *clone_of(lk_sim *sim)
{
    lk_sim *clone = lk_sim_clone(sim);
    CHECK(clone != NULL);
    return clone;
}

static lk_file *open_as(lk_sim *sim, const char *path, int flags)
{
    lk_error err;
    lk_file *file = NULL;
    CHECK_OK(lk_env_open(lk_sim_env(sim), path, flags, &file, &err), &err);
    return file;
}

static lk_file *open_new(lk_sim *sim, const char *path)
{
    return open_as(sim, path, LK_OPEN_WRITE | LK_OPEN_CREATE);
}

static void write_text(lk_file *file, uint64_t offset, const char *text)
{
    lk_error err;
    CHECK_OK(lk_file_write(file, offset, text, strlen(text), &err), &err);
}

static void sync_file(lk_file *file)
{
    lk_error err;
    CHECK_OK(lk_file_sync(file, &err), &err);
}

static void sync_dir(lk_sim *sim, const char *path)
{
    lk_error err;
    CHECK_OK(lk_env_sync_dir(lk_sim_env(sim), path, &err), &err);
}

/* A file that is on the disk with `text`, name and content. */
static void put_durable(lk_sim *sim, const char *path, const char *text)
{
    lk_file *file = open_new(sim, path);
    write_text(file, 0, text);
    sync_file(file);
    lk_file_close(file);
    sync_dir(sim, "/");
}

static bool exists(lk_sim *sim, const char *path)
{
    lk_error err;
    bool is_there = false;
    CHECK_OK(lk_env_exists(lk_sim_env(sim), path, &is_there, NULL, &err), &err);
    return is_there;
}

static uint64_t size_of(lk_file *file)
{
    lk_error err;
    uint64_t bytes = 0;
    CHECK_OK(lk_file_size(file, &bytes, &err), &err);
    return bytes;
}

/* Whether the file at `path` is there and holds just `text`. */
static bool holds(lk_sim *sim, const char *path, const char *text)
{
    char buf[64] = "";
    size_t got = 0;
    lk_error err;
    if (!exists(sim, path)) return false;
    lk_file *file = open_as(sim, path, LK_OPEN_READ);
    CHECK_OK(lk_file_read(file, 0, buf, sizeof buf - 1, &got, &err), &err);
    lk_file_close(file);
    return got == strlen(text) && memcmp(buf, text, got) == 0;
}

/* ---- an ordinary machine ---- */

LK_TEST(test_files_and_names_behave_as_on_a_real_machine)
{
    lk_sim *sim = sim_new(1);
    lk_env *env = lk_sim_env(sim);
    lk_error err;
    lk_names names;
    bool existed = true;
    uint64_t links = 0;
    lk_file *file = NULL;
    CHECK_EQ(lk_env_open(env, "/db/a", LK_OPEN_WRITE | LK_OPEN_CREATE, &file, &err), LK_NOT_FOUND);
    CHECK_OK(lk_env_mkdir(env, "/db", &existed, &err), &err);
    CHECK(!existed);
    CHECK_OK(lk_env_mkdir(env, "db/", &existed, &err), &err);
    CHECK(existed);
    file = open_new(sim, "/db/a");
    write_text(file, 5000, "far");
    CHECK_EQ(size_of(file), 5003);
    CHECK(exists(sim, "/db/./a"));
    CHECK_EQ(lk_env_unlink(env, "/db", &err), LK_IO);
    CHECK_EQ(err.sys_errno, EISDIR);
    CHECK_EQ(lk_env_rmdir(env, "/db", &err), LK_IO);
    CHECK_EQ(err.sys_errno, ENOTEMPTY);
    CHECK_EQ(lk_env_mkdir(env, "/db/a", NULL, &err), LK_EXISTS);
    CHECK_EQ(lk_env_mkdir(env, "/db/../x", NULL, &err), LK_INVALID);
    CHECK_OK(lk_env_link(env, "/db/a", "/db/b", &err), &err);
    CHECK_EQ(lk_env_link(env, "/db/a", "/db/b", &err), LK_EXISTS);
    CHECK_OK(lk_file_links(file, &links, &err), &err);
    CHECK_EQ(links, 2);
    CHECK_OK(lk_env_rename(env, "/db/b", "/db/c", &err), &err);
    CHECK_EQ(lk_env_rename(env, "/db", "/db/c/d", &err), LK_IO); /* c is no directory */
    CHECK_OK(lk_env_mkdir(env, "/db/sub", NULL, &err), &err);
    CHECK_EQ(lk_env_rename(env, "/db", "/db/sub/d", &err), LK_INVALID);
    CHECK_OK(lk_env_list(env, "/db", &names, &err), &err);
    CHECK_EQ(names.count, 3);
    CHECK_STR_EQ(names.names[0], "a");
    CHECK_STR_EQ(names.names[1], "c");
    lk_names_free(&names);
    CHECK_OK(lk_env_unlink(env, "/db/a", &err), &err);
    CHECK_OK(lk_env_unlink(env, "/db/c", &err), &err);
    CHECK_EQ(lk_env_unlink(env, "/db/c", &err), LK_NOT_FOUND);
    CHECK_OK(lk_file_links(file, &links, &err), &err);
    CHECK_EQ(links, 0);
    write_text(file, 0, "still here"); /* no name, but a handle */
    CHECK_EQ(size_of(file), 5003);
    lk_file_close(file);
    CHECK_EQ(lk_sim_used_bytes(sim), 0);
    lk_sim_free(sim);
}

LK_TEST(test_truncated_bytes_read_as_zeros_when_the_file_grows_again)
{
    lk_sim *sim = sim_new(1);
    char buf[8];
    lk_error err;
    lk_file *file = open_new(sim, "/a");
    write_text(file, 0, "abcdefgh");
    CHECK_OK(lk_file_truncate(file, 3, &err), &err);
    CHECK_OK(lk_file_truncate(file, 8, &err), &err);
    CHECK_OK(lk_file_read_exact(file, 0, buf, 8, &err), &err);
    CHECK_MEM_EQ(buf, "abc\0\0\0\0\0", 8);
    lk_file_close(file);
    lk_sim_free(sim);
}

LK_TEST(test_a_mapping_and_the_file_are_one)
{
    lk_sim *sim = sim_new(1);
    lk_env *env = lk_sim_env(sim);
    uint8_t *map = NULL, *second = NULL;
    char buf[5];
    lk_error err;
    lk_file *file = open_new(sim, "/a");
    CHECK_OK(lk_file_allocate(file, 3 * PAGE, &err), &err);
    write_text(file, 0, "first");
    CHECK_OK(lk_file_map(file, 3 * PAGE, true, &map, &err), &err);
    CHECK_MEM_EQ(map, "first", 5);
    memcpy(map + PAGE - 2, "store", 5);
    CHECK_OK(lk_file_read_exact(file, PAGE - 2, buf, 5, &err), &err);
    CHECK_MEM_EQ(buf, "store", 5);
    CHECK_OK(lk_env_protect(env, map + PAGE, PAGE, &err), &err);
    write_text(file, 2 * PAGE - 2, "write"); /* the kernel may, the program may not */
    CHECK_MEM_EQ(map + 2 * PAGE - 2, "write", 5);
    map[0] = 'F';
    CHECK_OK(lk_file_map(file, PAGE, false, &second, &err), &err);
    CHECK_EQ(second[0], 'F');
    CHECK_EQ(lk_file_truncate(file, PAGE, &err), LK_INVALID);
    lk_env_unmap(env, second, PAGE);
    lk_env_unmap(env, map, 3 * PAGE);
    CHECK_OK(lk_file_read_exact(file, 0, buf, 5, &err), &err);
    CHECK_MEM_EQ(buf, "First", 5);
    CHECK_OK(lk_file_truncate(file, PAGE, &err), &err);
    lk_file_close(file);
    lk_sim_free(sim);
}

LK_TEST(test_a_lock_has_one_owner_until_the_process_ends)
{
    lk_sim *sim = sim_new(1);
    lk_env *env = lk_sim_env(sim);
    lk_lock_file *lock = NULL, *second = NULL;
    lk_error err;
    CHECK_OK(lk_env_lock(env, "/LOCK", &lock, &err), &err);
    CHECK_EQ(lk_env_lock(env, "/LOCK", &second, &err), LK_LOCKED);
    CHECK_EQ(err.found, getpid());
    CHECK_EQ(err.offset, lk_env_wall_us(env) / 1000000);
    lk_env_unlock(lock);
    CHECK_OK(lk_env_lock(env, "/LOCK", &lock, &err), &err);
    lk_sim_kill(sim);
    CHECK_OK(lk_env_lock(env, "/LOCK", &second, &err), &err);
    lk_env_unlock(lock); /* the dead process's: changes nothing */
    CHECK_EQ(lk_env_lock(env, "/LOCK", &lock, &err), LK_LOCKED);
    lk_env_unlock(second);
    lk_sim_free(sim);
}

LK_TEST(test_the_same_seed_gives_the_same_machine)
{
    lk_sim *a = sim_new(7), *b = sim_new(7), *c = sim_new(8);
    uint8_t x[16], y[16], z[16];
    lk_env_random(lk_sim_env(a), x, 16);
    lk_env_random(lk_sim_env(b), y, 16);
    lk_env_random(lk_sim_env(c), z, 16);
    CHECK_MEM_EQ(x, y, 16);
    CHECK(memcmp(x, z, 16) != 0);
    uint64_t before_ns = lk_env_now_ns(lk_sim_env(a));
    CHECK_EQ(lk_env_now_ns(lk_sim_env(b)), before_ns);
    CHECK(lk_env_now_ns(lk_sim_env(a)) > before_ns);
    uint64_t wall_us = lk_env_wall_us(lk_sim_env(a));
    lk_sim_advance(a, 5000000000u);
    CHECK(lk_env_now_ns(lk_sim_env(a)) >= before_ns + 5000000000u);
    CHECK(lk_env_wall_us(lk_sim_env(a)) >= wall_us + 5000000);
    lk_sim_free(a);
    lk_sim_free(b);
    lk_sim_free(c);
}

/* ---- faults ---- */

LK_TEST(test_the_nth_call_fails_once_or_for_good)
{
    lk_sim *sim = sim_new(1);
    lk_error err;
    lk_file *file = open_new(sim, "/a");
    CHECK(lk_sim_fail(sim, LK_SIM_WRITE, 2, ENOSPC, false));
    write_text(file, 0, "one");
    CHECK_EQ(lk_file_write(file, 0, "two", 3, &err), LK_IO);
    CHECK_EQ(err.sys_errno, ENOSPC);
    CHECK_STR_EQ(err.path, "/a");
    write_text(file, 3, "!");
    CHECK(holds(sim, "/a", "one!"));
    CHECK(lk_sim_fail(sim, LK_SIM_ANY, 1, EIO, true));
    CHECK_EQ(lk_file_write(file, 0, "two", 3, &err), LK_IO);
    CHECK_EQ(lk_file_sync(file, &err), LK_IO);
    CHECK_EQ(lk_file_truncate(file, 0, &err), LK_IO);
    lk_sim_clear_faults(sim);
    CHECK(lk_sim_fail_on(sim, LK_SIM_WRITE, "other", 1, EIO, true));
    write_text(file, 0, "two");
    lk_file *other = open_new(sim, "/the-other");
    CHECK_EQ(lk_file_write(other, 0, "two", 3, &err), LK_IO);
    lk_file_close(other);
    lk_file_close(file);
    CHECK(holds(sim, "/a", "two!"));
    lk_sim_free(sim);
}

LK_TEST(test_every_kind_of_call_can_be_named_and_made_to_fail)
{
    for (lk_sim_op op = LK_SIM_OPEN; op < LK_SIM_OPS; op++) {
        lk_sim *sim = sim_new(1);
        lk_env *env = lk_sim_env(sim);
        uint8_t *map = NULL, *memory = NULL;
        uint64_t number = 0;
        size_t got = 0;
        bool is_there = false;
        lk_names names = {0};
        lk_lock_file *lock = NULL;
        lk_file *file = NULL, *second = NULL;
        lk_sim_op found = LK_SIM_ANY;
        lk_error err = {0};
        char buf[1];
        file = open_new(sim, "/a");
        write_text(file, 0, "x");
        CHECK_OK(lk_file_map(file, 1, true, &map, &err), &err);
        CHECK(lk_sim_op_find(lk_sim_op_name(op), &found));
        CHECK_EQ(found, op);
        CHECK(lk_sim_fail(sim, op, 1, EDQUOT, false));
        lk_status failed[] = {
            lk_env_open(env, "/a", LK_OPEN_READ, &second, &err),
            lk_file_read(file, 0, buf, 1, &got, &err),
            lk_file_write(file, 0, "y", 1, &err),
            lk_file_size(file, &number, &err),
            lk_file_truncate(file, 1, &err),
            lk_file_allocate(file, 1, &err),
            lk_file_sync(file, &err),
            lk_file_datasync(file, &err),
            lk_file_links(file, &number, &err),
            LK_OK, /* map, below */
            lk_env_map_anonymous(env, 1, &memory, &err),
            lk_env_protect(env, map, 1, &err),
            lk_env_detach(env, map, 1, &err),
            lk_env_rename(env, "/a", "/b", &err),
            op == LK_SIM_RENAME ? lk_env_unlink(env, "/a", &err) : lk_env_unlink(env, "/b", &err),
            LK_OK, /* link, below */
            lk_env_mkdir(env, "/d", NULL, &err),
            op == LK_SIM_MKDIR ? LK_OK : lk_env_rmdir(env, "/d", &err),
            lk_env_sync_dir(env, "/", &err),
            lk_env_exists(env, "/", &is_there, NULL, &err),
            lk_env_list(env, "/", &names, &err),
            lk_env_lock(env, "/LOCK", &lock, &err),
        };
        lk_env_unmap(env, map, 1);
        map = NULL;
        failed[LK_SIM_MAP - 1] = lk_file_map(file, 1, false, &map, &err);
        failed[LK_SIM_LINK - 1] = lk_env_link(env, "/LOCK", "/SECOND", &err);
        for (lk_sim_op other = LK_SIM_OPEN; other < LK_SIM_OPS; other++) {
            if (op == LK_SIM_LOCK && other == LK_SIM_LINK) continue; /* nothing there to link */
            CHECK_EQ(failed[other - 1], other == op ? LK_IO : LK_OK);
        }
        CHECK_EQ(lk_sim_calls_of(sim, LK_SIM_LIST), 1);
        if (memory != NULL) lk_env_unmap(env, memory, 1);
        lk_env_unmap(env, map, 1);
        lk_names_free(&names);
        lk_env_unlock(lock);
        lk_file_close(second);
        lk_file_close(file);
        lk_sim_free(sim);
    }
    lk_sim_op found = LK_SIM_ANY;
    CHECK(lk_sim_op_find("fdatasync", &found));
    CHECK_EQ(found, LK_SIM_DATASYNC);
    CHECK(!lk_sim_op_find("format", &found));
}

LK_TEST(test_a_short_write_leaves_its_beginning)
{
    lk_sim *sim = sim_new(1);
    lk_error err;
    lk_file *file = open_new(sim, "/a");
    CHECK(lk_sim_short(sim, 1, 3, EIO));
    CHECK_EQ(lk_file_write(file, 0, "abcdef", 6, &err), LK_IO);
    CHECK_EQ(err.offset, 3);
    CHECK(holds(sim, "/a", "abc"));
    lk_file_close(file);
    lk_sim_free(sim);
}

LK_TEST(test_a_full_disk_takes_what_fits)
{
    static char buf[3 * PAGE];
    lk_sim *sim = sim_new(1);
    lk_error err;
    lk_file *file = open_new(sim, "/a");
    lk_file *other = open_new(sim, "/b");
    lk_sim_set_capacity(sim, 2 * PAGE);
    CHECK_EQ(lk_file_allocate(other, 3 * PAGE, &err), LK_IO);
    CHECK_EQ(err.sys_errno, ENOSPC);
    CHECK_EQ(size_of(other), 0);
    CHECK_EQ(lk_file_write(file, 0, buf, sizeof buf, &err), LK_IO);
    CHECK_EQ(err.sys_errno, ENOSPC);
    CHECK_EQ(size_of(file), 2 * PAGE);
    CHECK_EQ(lk_sim_used_bytes(sim), 2 * PAGE);
    CHECK_EQ(lk_file_write(other, 0, "x", 1, &err), LK_IO);
    write_text(file, PAGE, "in place"); /* needs no room */
    lk_file_close(file);
    CHECK_OK(lk_env_unlink(lk_sim_env(sim), "/a", &err), &err);
    CHECK_EQ(lk_sim_used_bytes(sim), 0); /* although a power cut could bring the name back */
    CHECK_OK(lk_file_allocate(other, PAGE, &err), &err);
    CHECK_OK(lk_env_unlink(lk_sim_env(sim), "/b", &err), &err);
    CHECK_EQ(lk_sim_used_bytes(sim), PAGE); /* open files are not gone */
    lk_sim *clone = clone_of(sim);
    CHECK_EQ(lk_sim_used_bytes(clone), 0);
    lk_sim_free(clone);
    lk_sim_kill(sim);
    CHECK_EQ(lk_sim_used_bytes(sim), 0);
    lk_file_close(other);
    lk_sim_free(sim);
}

LK_TEST(test_calls_that_change_are_counted_and_traced)
{
    lk_sim *sim = sim_new(1);
    lk_env *env = lk_sim_env(sim);
    lk_error err;
    uint64_t before = lk_sim_calls(sim);
    lk_sim_trace(sim, true);
    lk_file *file = open_new(sim, "/a");
    write_text(file, 4, "text");
    (void)size_of(file);
    CHECK(holds(sim, "/a", "\0\0\0\0text") == false);
    CHECK_OK(lk_file_datasync(file, &err), &err);
    CHECK_OK(lk_env_rename(env, "/a", "/b", &err), &err);
    CHECK_EQ(lk_env_unlink(env, "/a", &err), LK_NOT_FOUND);
    sync_dir(sim, "/");
    lk_file_close(file);
    CHECK_EQ(lk_sim_calls(sim) - before, 6);
    char *trace = lk_sim_trace_take(sim);
    CHECK_STR_EQ(trace, "open /a new\nwrite /a 4+4\ndatasync /a\nrename /a /b\nunlink /a failed 2\n"
                        "sync_dir /\n");
    free(trace);
    trace = lk_sim_trace_take(sim);
    CHECK_STR_EQ(trace, "");
    free(trace);
    lk_sim_free(sim);
}

/* ---- power cuts ---- */

LK_TEST(test_a_power_cut_loses_what_was_not_synced)
{
    lk_sim *sim = sim_new(1);
    uint8_t boot[16], again[16];
    put_durable(sim, "/a", "old");
    lk_file *file = open_as(sim, "/a", LK_OPEN_WRITE);
    write_text(file, 0, "new and longer");
    lk_env_boot_id(lk_sim_env(sim), boot);
    lk_sim_power_cut(sim, LK_SIM_LOSE_UNSYNCED, 0);
    CHECK(holds(sim, "/a", "old"));
    lk_env_boot_id(lk_sim_env(sim), again);
    CHECK(memcmp(boot, again, 16) != 0);
    lk_file_close(file);
    lk_sim_free(sim);
}

LK_TEST(test_a_power_cut_may_keep_all_and_a_kill_always_does)
{
    for (int way = 0; way < 4; way++) {
        bool is_kill = way % 2 != 0;
        lk_sim *sim = sim_new(1);
        uint8_t boot[16], again[16];
        lk_sim_set_real(sim, way >= 2); /* whose boots are its own all the same */
        put_durable(sim, "/a", "old");
        lk_file *file = open_new(sim, "/b");
        write_text(file, 0, "new");
        lk_env_boot_id(lk_sim_env(sim), boot);
        if (is_kill) {
            lk_sim_kill(sim);
        } else {
            lk_sim_power_cut(sim, LK_SIM_KEEP_ALL, 0);
        }
        CHECK(holds(sim, "/a", "old"));
        CHECK(holds(sim, "/b", "new"));
        lk_env_boot_id(lk_sim_env(sim), again);
        CHECK_EQ(memcmp(boot, again, 16) == 0, is_kill);
        lk_file_close(file);
        lk_sim_free(sim);
    }
}

LK_TEST(test_what_a_kill_kept_is_still_not_on_the_disk)
{
    lk_sim *sim = sim_new(1);
    put_durable(sim, "/a", "old");
    lk_file *file = open_as(sim, "/a", LK_OPEN_WRITE);
    write_text(file, 0, "new");
    lk_sim_kill(sim);
    lk_file_close(file);
    CHECK(holds(sim, "/a", "new"));
    lk_sim_power_cut(sim, LK_SIM_LOSE_UNSYNCED, 0);
    CHECK(holds(sim, "/a", "old"));
    lk_sim_free(sim);
}

LK_TEST(test_stale_handles_fail_and_close)
{
    lk_sim *sim = sim_new(1);
    lk_error err;
    lk_file *file = open_new(sim, "/a");
    sync_dir(sim, "/");
    lk_sim_power_cut(sim, LK_SIM_LOSE_UNSYNCED, 0);
    uint64_t calls = lk_sim_calls(sim);
    CHECK_EQ(lk_file_write(file, 0, "ghost", 5, &err), LK_IO);
    CHECK_EQ(err.sys_errno, EIO);
    CHECK_EQ(lk_file_sync(file, &err), LK_IO);
    CHECK_EQ(lk_sim_calls(sim), calls);
    CHECK(holds(sim, "/a", ""));
    lk_file_close(file);
    lk_sim_free(sim);
}

LK_TEST(test_names_are_durable_once_their_directory_is_synced)
{
    lk_sim *sim = sim_new(1);
    lk_env *env = lk_sim_env(sim);
    lk_error err;
    put_durable(sim, "/a", "A");
    put_durable(sim, "/b", "B");
    CHECK_OK(lk_env_rename(env, "/a", "/b", &err), &err);
    CHECK_OK(lk_env_mkdir(env, "/sub", NULL, &err), &err);
    lk_file_close(open_new(sim, "/sub/c"));
    sync_dir(sim, "/sub"); /* of no use: the directory itself is on no disk */
    lk_sim *clone = clone_of(sim);
    lk_sim_power_cut(clone, LK_SIM_LOSE_UNSYNCED, 0);
    CHECK(holds(clone, "/a", "A"));
    CHECK(holds(clone, "/b", "B"));
    CHECK(!exists(clone, "/sub"));
    lk_sim_free(clone);
    sync_dir(sim, "/");
    lk_sim_power_cut(sim, LK_SIM_LOSE_UNSYNCED, 0);
    CHECK(!exists(sim, "/a"));
    CHECK(holds(sim, "/b", "A"));
    CHECK(holds(sim, "/sub/c", ""));
    lk_sim_free(sim);
}

LK_TEST(test_of_unsynced_names_a_prefix_survives)
{
    enum { FILES = 6 };
    lk_sim *sim = sim_new(1);
    bool seen[FILES + 1] = {false};
    char path[16];
    for (int i = 0; i < FILES; i++) {
        (void)snprintf(path, sizeof path, "/%d", i);
        lk_file_close(open_new(sim, path));
    }
    for (uint64_t seed = 1; seed <= 100; seed++) {
        lk_sim *clone = clone_of(sim);
        int kept = 0;
        lk_sim_power_cut(clone, LK_SIM_RANDOM, seed);
        for (int i = 0; i < FILES; i++) {
            (void)snprintf(path, sizeof path, "/%d", i);
            if (!exists(clone, path)) continue;
            CHECK_EQ(kept, i);
            kept++;
        }
        seen[kept] = true;
        lk_sim_free(clone);
    }
    for (int i = 0; i <= FILES; i++) CHECK(seen[i]);
    lk_sim_free(sim);
}

LK_TEST(test_a_rename_between_directories_is_never_half_on_the_disk)
{
    lk_sim *sim = sim_new(1);
    lk_env *env = lk_sim_env(sim);
    lk_error err;
    CHECK_OK(lk_env_mkdir(env, "/x", NULL, &err), &err);
    CHECK_OK(lk_env_mkdir(env, "/y", NULL, &err), &err);
    lk_file_close(open_new(sim, "/x/a"));
    lk_file_close(open_new(sim, "/y/a"));
    sync_dir(sim, "/");
    sync_dir(sim, "/x");
    CHECK_OK(lk_env_rename(env, "/y/a", "/y/b", &err), &err);
    CHECK_OK(lk_env_rename(env, "/x/a", "/y/a", &err), &err);
    sync_dir(sim, "/x"); /* takes what happened in /y before with it */
    lk_sim_power_cut(sim, LK_SIM_LOSE_UNSYNCED, 0);
    CHECK(!exists(sim, "/x/a"));
    CHECK(exists(sim, "/y/a"));
    CHECK(exists(sim, "/y/b"));
    lk_sim_free(sim);
}

LK_TEST(test_stores_into_a_mapping_count_until_the_cut)
{
    lk_sim *sim = sim_new(1);
    lk_env *env = lk_sim_env(sim);
    uint8_t *map = NULL;
    lk_error err;
    lk_file *file = open_new(sim, "/a");
    sync_dir(sim, "/");
    CHECK_OK(lk_file_allocate(file, 4, &err), &err);
    CHECK_OK(lk_file_map(file, 4, true, &map, &err), &err);
    memcpy(map, "sync", 4);
    CHECK_OK(lk_file_datasync(file, &err), &err);
    memcpy(map, "late", 4);
    lk_sim *clone = clone_of(sim);
    lk_sim_kill(clone);
    CHECK(holds(clone, "/a", "late"));
    lk_sim_free(clone);
    lk_sim_power_cut(sim, LK_SIM_LOSE_UNSYNCED, 0);
    CHECK(holds(sim, "/a", "sync"));
    memcpy(map, "dead", 4);
    CHECK(holds(sim, "/a", "sync"));
    lk_env_unmap(env, map, 4);
    lk_file_close(file);
    CHECK(holds(sim, "/a", "sync"));
    lk_sim_free(sim);
}

LK_TEST(test_the_machine_stops_at_the_call_it_was_told_to)
{
    lk_sim *sim = sim_new(1);
    lk_env *env = lk_sim_env(sim);
    uint8_t *map = NULL;
    uint64_t bytes = 0;
    lk_error err;
    lk_file *file = open_new(sim, "/a");
    write_text(file, 0, "abcd");
    CHECK_OK(lk_file_map(file, 4, true, &map, &err), &err);
    lk_sim_crash_at(sim, lk_sim_calls(sim) + 2);
    CHECK_OK(lk_file_sync(file, &err), &err);
    map[0] = 'A';
    CHECK(!lk_sim_is_dead(sim));
    CHECK_EQ(lk_env_rename(env, "/a", "/b", &err), LK_IO);
    CHECK(lk_sim_is_dead(sim));
    map[1] = 'B'; /* on no machine */
    CHECK_EQ(lk_file_size(file, &bytes, &err), LK_IO);
    CHECK_EQ(lk_env_rename(env, "/a", "/b", &err), LK_IO);
    lk_env_unmap(env, map, 4);
    lk_file_close(file);
    lk_sim_kill(sim);
    CHECK(!lk_sim_is_dead(sim));
    CHECK(holds(sim, "/a", "Abcd"));
    lk_sim_free(sim);
}

LK_TEST(test_a_write_during_which_the_machine_stops_ends_at_a_page)
{
    static char buf[4 * PAGE];
    bool seen[4] = {false};
    memset(buf, 'x', sizeof buf);
    for (uint64_t seed = 1; seed < 60; seed++) {
        lk_sim *sim = sim_new(seed);
        lk_error err;
        lk_file *file = open_new(sim, "/a");
        lk_sim_crash_at(sim, lk_sim_calls(sim) + 1);
        CHECK_EQ(lk_file_write(file, 100, buf, 3 * PAGE, &err), LK_IO);
        lk_file_close(file);
        lk_sim_kill(sim);
        file = open_as(sim, "/a", LK_OPEN_READ);
        CHECK_EQ(size_of(file) % PAGE, 0);
        CHECK(size_of(file) / PAGE < 4);
        seen[size_of(file) / PAGE] = true;
        lk_file_close(file);
        lk_sim_free(sim);
    }
    CHECK(seen[0] && seen[1] && seen[2] && seen[3]);
}

LK_TEST(test_after_a_failed_sync_a_good_one_proves_nothing)
{
    static char old[16 * PAGE], new[16 * PAGE], buf[16 * PAGE];
    lk_sim *sim = sim_new(1);
    lk_env *env = lk_sim_env(sim);
    uint8_t *map = NULL;
    lk_error err;
    memset(old, 'o', sizeof old);
    memset(new, 'n', sizeof new);
    lk_file *file = open_new(sim, "/a");
    CHECK_OK(lk_file_write(file, 0, old, sizeof old, &err), &err);
    sync_file(file);
    sync_dir(sim, "/");
    CHECK_OK(lk_file_write(file, 0, new, sizeof new, &err), &err);
    CHECK(lk_sim_fail(sim, LK_SIM_DATASYNC, 1, EIO, false));
    CHECK_EQ(lk_file_datasync(file, &err), LK_IO);
    CHECK_OK(lk_file_datasync(file, &err), &err);
    CHECK_OK(lk_file_read_exact(file, 0, buf, sizeof buf, &err), &err);
    CHECK_MEM_EQ(buf, new, sizeof buf); /* as long as the cache lives */
    lk_sim *clone = clone_of(sim);
    lk_sim_power_cut(clone, LK_SIM_KEEP_ALL, 0);
    lk_file *cut = open_as(clone, "/a", LK_OPEN_READ);
    CHECK_OK(lk_file_read_exact(cut, 0, buf, sizeof buf, &err), &err);
    CHECK(memchr(buf, 'o', sizeof buf) != NULL);
    CHECK(memchr(buf, 'n', sizeof buf) != NULL);
    lk_file_close(cut);
    lk_sim_free(clone);
    /* The same shows in a mapping once the kernel forgets, unless it was detached before. */
    CHECK_OK(lk_file_map(file, sizeof buf, false, &map, &err), &err);
    lk_sim *other = clone_of(sim);
    lk_file *twin = open_as(other, "/a", LK_OPEN_WRITE);
    uint8_t *kept = NULL;
    CHECK_OK(lk_file_map(twin, sizeof buf, false, &kept, &err), &err);
    CHECK_OK(lk_env_detach(lk_sim_env(other), kept, sizeof buf, &err), &err);
    lk_sim_evict(sim);
    lk_sim_evict(other);
    CHECK(memchr(map, 'o', sizeof buf) != NULL);
    CHECK_MEM_EQ(kept, new, sizeof buf);
    kept[0] = 'w'; /* the copy may be written */
    lk_env_unmap(lk_sim_env(other), kept, sizeof buf);
    lk_file_close(twin);
    lk_sim_free(other);
    lk_env_unmap(env, map, sizeof buf);
    lk_file_close(file);
    lk_sim_free(sim);
}

LK_TEST(test_clones_go_their_own_ways)
{
    lk_sim *sim = sim_new(1);
    put_durable(sim, "/a", "both");
    lk_sim *clone = clone_of(sim);
    lk_file *file = open_as(clone, "/a", LK_OPEN_WRITE);
    write_text(file, 0, "mine");
    lk_file_close(file);
    CHECK(holds(sim, "/a", "both"));
    CHECK(holds(clone, "/a", "mine"));
    lk_sim_free(sim);
    CHECK(holds(clone, "/a", "mine"));
    lk_sim_power_cut(clone, LK_SIM_LOSE_UNSYNCED, 0);
    CHECK(holds(clone, "/a", "both"));
    lk_sim_free(clone);
}

LK_TEST(test_writeback_puts_states_between_syncs_on_the_disk)
{
    lk_sim *sim = sim_new(1);
    put_durable(sim, "/a", "first");
    lk_sim_set_writeback(sim, 1000);
    lk_file *file = open_as(sim, "/a", LK_OPEN_WRITE);
    write_text(file, 0, "between");
    write_text(file, 0, "BETWEEN"); /* its beginning writes the page as it was */
    lk_sim_power_cut(sim, LK_SIM_LOSE_UNSYNCED, 0);
    CHECK(holds(sim, "/a", "between"));
    lk_file_close(file);
    lk_sim_free(sim);
}

/* ---- a random program ---- */

enum { FILE_PAGES = 12, FILE_BYTES = FILE_PAGES * PAGE };

typedef struct history {
    uint8_t synced[FILE_BYTES];
    uint8_t now[FILE_BYTES];
} history;

/* Each 64-byte piece is as it was synced or as it was last: the finest that a page can be torn. */
static void check_pieces(const history *h, const uint8_t *found, unsigned counts[3])
{
    for (size_t page = 0; page < FILE_PAGES; page++) {
        bool is_old = true, is_new = true;
        for (size_t at = page * PAGE; at < (page + 1) * PAGE; at += 64) {
            bool old = memcmp(found + at, h->synced + at, 64) == 0;
            bool new = memcmp(found + at, h->now + at, 64) == 0;
            CHECK(old || new);
            is_old = is_old && old;
            is_new = is_new && new;
        }
        bool is_dirty = memcmp(h->synced + page * PAGE, h->now + page * PAGE, PAGE) != 0;
        if (is_dirty) counts[is_old ? 0 : (is_new ? 1 : 2)]++;
        if (!is_dirty) CHECK(is_old);
    }
}

static void change_somewhere(lk_file *file, uint8_t *map, history *h, uint64_t *rng)
{
    uint8_t buf[2 * PAGE];
    lk_error err;
    size_t n = 1 + lk_test_below(rng, sizeof buf);
    size_t at = lk_test_below(rng, FILE_BYTES - n + 1);
    lk_test_fill(rng, buf, n);
    memcpy(h->now + at, buf, n);
    if (map != NULL && lk_test_below(rng, 2) == 0) {
        memcpy(map + at, buf, n);
    } else {
        CHECK_OK(lk_file_write(file, at, buf, n, &err), &err);
    }
}

static void run_program(uint64_t seed, bool is_mapped, unsigned counts[3])
{
    static history h;
    static uint8_t found[FILE_BYTES];
    lk_sim *sim = sim_new(seed);
    uint64_t rng = seed;
    uint8_t *map = NULL;
    lk_error err;
    memset(&h, 0, sizeof h);
    lk_file *file = open_new(sim, "/a");
    CHECK_OK(lk_file_allocate(file, FILE_BYTES, &err), &err);
    if (is_mapped) CHECK_OK(lk_file_map(file, FILE_BYTES, true, &map, &err), &err);
    sync_file(file);
    sync_dir(sim, "/");
    for (uint64_t step = lk_test_below(&rng, 40); step > 0; step--) {
        change_somewhere(file, map, &h, &rng);
        if (lk_test_below(&rng, 8) != 0) continue;
        CHECK_OK(lk_file_datasync(file, &err), &err);
        memcpy(h.synced, h.now, FILE_BYTES);
    }
    lk_sim_power_cut(sim, LK_SIM_RANDOM, seed);
    lk_env_unmap(lk_sim_env(sim), map, FILE_BYTES);
    lk_file_close(file);
    file = open_as(sim, "/a", LK_OPEN_READ);
    CHECK_EQ(size_of(file), FILE_BYTES);
    CHECK_OK(lk_file_read_exact(file, 0, found, FILE_BYTES, &err), &err);
    check_pieces(&h, found, counts);
    lk_file_close(file);
    lk_sim_free(sim);
}

LK_TEST(test_each_page_is_kept_lost_or_torn)
{
    uint64_t rng = lk_test_seed();
    unsigned counts[3] = {0};
    for (int i = 0; i < 300; i++) run_program(lk_test_rand(&rng) | 1, i % 2 == 0, counts);
    CHECK(counts[0] > 50 && counts[1] > 50 && counts[2] > 50);
}

typedef struct storing {
    lk_sim *sim;
    uint8_t *map;
    atomic_int rounds;
} storing;

static void *store_all_the_time(void *arg)
{
    storing *s = arg;
    for (int i = 0; i < 200000 && atomic_load(&s->rounds) > 0; i++) s->map[i % PAGE] = (uint8_t)i;
    return NULL;
}

/* The kernel reads what threads are storing: no race that a sanitizer should speak of. */
LK_TEST(test_syncs_and_cuts_beside_a_storing_thread)
{
    storing s = {.sim = sim_new(3), .rounds = 50};
    lk_error err;
    pthread_t thread;
    lk_file *file = open_new(s.sim, "/a");
    CHECK_OK(lk_file_allocate(file, PAGE, &err), &err);
    CHECK_OK(lk_file_map(file, PAGE, true, &s.map, &err), &err);
    CHECK_EQ(pthread_create(&thread, NULL, store_all_the_time, &s), 0);
    while (atomic_fetch_sub(&s.rounds, 1) > 1) CHECK_OK(lk_file_datasync(file, &err), &err);
    lk_sim_power_cut(s.sim, LK_SIM_RANDOM, 1);
    CHECK_EQ(lk_file_datasync(file, &err), LK_IO);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    lk_env_unmap(lk_sim_env(s.sim), s.map, PAGE);
    lk_file_close(file);
    lk_sim_free(s.sim);
}
