/* env_sim.h: a machine in memory that fails, fills up, and loses power as a test wishes.
 *
 * A file has three images: what reads see (the kernel's cache), what the kernel believes to be on
 * the disk, and what is on the disk. Sync makes the three equal; a sync that fails makes only the
 * first two equal, so that a later one has nothing to write, as Linux does. Names have two images,
 * and the changes of names not yet synced stand in an ordered log, of which a power cut keeps a
 * prefix. A mapping is memory that plain stores change, looked at when it is synced or cut off.
 *
 * Owns      inodes, pages, mappings. Pages are counted and copied on write, so that a clone of the
 *           whole machine costs pointers.
 * Callers   C tests; ":memory:" stores; the faulty disk that Python offers to tests.
 * Threads   one mutex. lk_sim_kill, lk_sim_power_cut and lk_sim_clone wait for no store: one that
 *           is still open goes on with handles that fail, and with mappings that reach no disk.
 * Always    handles, mappings and locks of before a kill or power cut are stale: calls on them give
 *           LK_IO with EIO, closing them is safe. All of them are closed before lk_sim_free.
 *
 *     lk_sim *sim = lk_sim_new(seed);
 *     ... open a store with lk_sim_env(sim) and write, stopping once lk_sim_is_dead(sim) ...
 *     lk_sim_crash_at(sim, n);                 the machine stops at its n-th change
 *     lk_sim_power_cut(sim, LK_SIM_RANDOM, 7); what was not synced is kept, lost or torn
 *     ... open it again, compare ...
 */
#ifndef LK_ENV_SIM_H
#define LK_ENV_SIM_H

#include "env.h"

typedef struct lk_sim lk_sim;

/* A directory "/" and nothing in it. Paths are absolute or are taken from "/"; ".." is refused. The
 * same seed and the same calls give the same machine. NULL when there is no memory. */
lk_sim *lk_sim_new(uint64_t seed);
void lk_sim_free(lk_sim *sim); /* NULL is fine */
lk_env *lk_sim_env(lk_sim *sim);
/* The same disk, cache, clock, boot and capacity, without handles, mappings, locks and faults;
 * alive although the original may be dead. Changes of one are not seen in the other. */
lk_sim *lk_sim_clone(lk_sim *sim);

/* ---- faults ---- */

/* What can be counted and made to fail; the names of the table's functions. */
typedef enum lk_sim_op {
    LK_SIM_ANY, /* each of the others */
    LK_SIM_OPEN,
    LK_SIM_READ,
    LK_SIM_WRITE,
    LK_SIM_SIZE,
    LK_SIM_TRUNCATE,
    LK_SIM_ALLOCATE,
    LK_SIM_SYNC,
    LK_SIM_DATASYNC,
    LK_SIM_LINKS,
    LK_SIM_MAP,
    LK_SIM_MAP_ANONYMOUS,
    LK_SIM_PROTECT,
    LK_SIM_DETACH,
    LK_SIM_RENAME,
    LK_SIM_UNLINK,
    LK_SIM_LINK,
    LK_SIM_MKDIR,
    LK_SIM_RMDIR,
    LK_SIM_SYNC_DIR,
    LK_SIM_EXISTS,
    LK_SIM_LIST,
    LK_SIM_LOCK,
    LK_SIM_OPS, /* how many there are */
} lk_sim_op;

/* "write", "datasync", "any", ..., and the POSIX names "pwrite", "fsync", "fdatasync"; false where
 * the name is none of these. */
bool lk_sim_op_find(const char *name, lk_sim_op *out);
const char *lk_sim_op_name(lk_sim_op op);

enum { LK_SIM_FAULTS_MAX = 16, LK_SIM_PART_BYTES_MAX = 64 };

/* The nth call of `op` from now (1 is the next) fails with `sys_errno`, and, when `sticky`, so do
 * all after it. A failed write, truncate or change of names has done nothing; a failed sync has
 * lost what it should have written, page by page as chance will. False when there are
 * LK_SIM_FAULTS_MAX faults already. */
bool lk_sim_fail(lk_sim *sim, lk_sim_op op, uint64_t nth, int sys_errno, bool sticky);
/* The same, of calls whose path contains `part`. */
bool lk_sim_fail_on(lk_sim *sim, lk_sim_op op, const char *part, uint64_t nth, int sys_errno,
                    bool sticky);
/* The nth write from now writes only its first `bytes` bytes, then fails with `sys_errno`. */
bool lk_sim_short(lk_sim *sim, uint64_t nth, size_t bytes, int sys_errno);
void lk_sim_clear_faults(lk_sim *sim);

/* Bytes that files may take up together, in whole pages; what goes beyond is ENOSPC, a write after
 * having written what fitted. UINT64_MAX, the beginning, for no bound. */
void lk_sim_set_capacity(lk_sim *sim, uint64_t bytes);
uint64_t lk_sim_used_bytes(lk_sim *sim);

/* Calls so far that changed, or tried to change, what a disk holds: write, truncate, allocate,
 * sync, datasync, the changes of names, sync_dir, and an open or lock that makes or empties a
 * file. */
uint64_t lk_sim_calls(lk_sim *sim);
/* Calls so far of one kind. */
uint64_t lk_sim_calls_of(lk_sim *sim, lk_sim_op op);
/* The machine stops as changing call n begins, counted as lk_sim_calls does, through kills, cuts and
 * clones (0 means never): that call and every one after it is LK_IO with EIO. A write at that
 * moment has got as far as some page. What is stored into mappings from then on is on no machine,
 * so whoever acknowledges a store without a call looks at lk_sim_is_dead afterwards. */
void lk_sim_crash_at(lk_sim *sim, uint64_t n);
bool lk_sim_is_dead(lk_sim *sim);

/* ---- ends and new beginnings ---- */

/* The process dies: what the kernel had is kept; same boot. Faults, crash and handles are gone. */
void lk_sim_kill(lk_sim *sim);

typedef enum lk_sim_cut {
    LK_SIM_KEEP_ALL,      /* as if all had been synced just before */
    LK_SIM_LOSE_UNSYNCED, /* exactly what was synced */
    /* Each unsynced page kept, lost, or torn into pieces of 64 or 512 bytes, each kept or lost;
     * each changed length kept or lost; a prefix of the changed names. */
    LK_SIM_RANDOM,
} lk_sim_cut;

/* The power goes and comes back: another boot. Faults, crash and handles are gone. */
void lk_sim_power_cut(lk_sim *sim, lk_sim_cut mode, uint64_t seed);
/* The kernel forgets its cache: what it believes to be on the disk is read anew, also in mappings.
 * It shows only after a failed sync, as damage. */
void lk_sim_evict(lk_sim *sim);
/* In each changing call, each dirty page is written to the disk with this chance (per thousand), as
 * kernels do when they like: so that the disk can hold a state between two syncs. 0 at first. */
void lk_sim_set_writeback(lk_sim *sim, unsigned per_mille);

/* ---- the clock, the log ---- */

/* The clock moves on by a microsecond a call, and by this. */
void lk_sim_advance(lk_sim *sim, uint64_t ns);
/* Clock and chance of the real machine from now on, for stores whose threads really wait. Boots stay
 * its own: a power cut is not one of the real machine. */
void lk_sim_set_real(lk_sim *sim, bool is_real);
/* What lk_env_may_map says; true at first. */
void lk_sim_set_may_map(lk_sim *sim, bool may_map);

/* Notes every changing call, one a line: its name, path, range or second path, and what failed. */
void lk_sim_trace(lk_sim *sim, bool is_on);
/* The lines since tracing began or the last call of this; the caller frees it. NULL: no memory. */
char *lk_sim_trace_take(lk_sim *sim);

#endif
