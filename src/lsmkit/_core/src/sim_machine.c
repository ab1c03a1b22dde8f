/* sim_machine.c: what befalls a simulated machine: faults, a full disk, its end, its clock.
 *
 * Owns      see sim_machine.h.
 * Threads   every function of env_sim.h takes the mutex.
 */
#include "sim_machine.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* 2024-01-01, so that times look like times. */
#define WALL_START_US UINT64_C(1704067200000000)

static const char *const OP_NAMES[LK_SIM_OPS] = {
    [LK_SIM_ANY] = "any",           [LK_SIM_OPEN] = "open",
    [LK_SIM_READ] = "read",         [LK_SIM_WRITE] = "write",
    [LK_SIM_SIZE] = "size",         [LK_SIM_TRUNCATE] = "truncate",
    [LK_SIM_ALLOCATE] = "allocate", [LK_SIM_SYNC] = "sync",
    [LK_SIM_DATASYNC] = "datasync", [LK_SIM_LINKS] = "links",
    [LK_SIM_MAP] = "map",           [LK_SIM_MAP_ANONYMOUS] = "map_anonymous",
    [LK_SIM_PROTECT] = "protect",   [LK_SIM_DETACH] = "detach",
    [LK_SIM_RENAME] = "rename",     [LK_SIM_UNLINK] = "unlink",
    [LK_SIM_LINK] = "link",         [LK_SIM_MKDIR] = "mkdir",
    [LK_SIM_RMDIR] = "rmdir",       [LK_SIM_SYNC_DIR] = "sync_dir",
    [LK_SIM_EXISTS] = "exists",     [LK_SIM_LIST] = "list",
    [LK_SIM_LOCK] = "lock",
};

const char *lk_sim_op_name(lk_sim_op op)
{
    return (unsigned)op < LK_SIM_OPS ? OP_NAMES[op] : "unknown";
}

bool lk_sim_op_find(const char *name, lk_sim_op *out)
{
    static const struct {
        const char *name;
        lk_sim_op op;
    } POSIX[] = {
        {"pread", LK_SIM_READ},
        {"pwrite", LK_SIM_WRITE},
        {"fsync", LK_SIM_SYNC},
        {"fdatasync", LK_SIM_DATASYNC},
        {"ftruncate", LK_SIM_TRUNCATE},
        {"fallocate", LK_SIM_ALLOCATE},
        {"posix_fallocate", LK_SIM_ALLOCATE},
        {"mmap", LK_SIM_MAP},
        {"mprotect", LK_SIM_PROTECT},
    };
    for (unsigned op = 0; op < LK_SIM_OPS; op++) {
        if (strcmp(name, OP_NAMES[op]) == 0) {
            *out = (lk_sim_op)op;
            return true;
        }
    }
    for (size_t i = 0; i < sizeof POSIX / sizeof *POSIX; i++) {
        if (strcmp(name, POSIX[i].name) == 0) {
            *out = POSIX[i].op;
            return true;
        }
    }
    return false;
}

void lk_sim_hold(lk_sim *sim)
{
    if (pthread_mutex_lock(&sim->mutex) != 0) abort();
}

void lk_sim_let_go(lk_sim *sim)
{
    if (pthread_mutex_unlock(&sim->mutex) != 0) abort();
}

/* ---- the beginning and the end of a call ---- */

void lk_sim_machine_stop(lk_sim *sim)
{
    sim->is_dead = true;
    lk_sim_disk_cut_mappings(&sim->disk);
}

/* The first rule that strikes, after each that applies has counted the call. */
static const lk_sim_rule *rules_strike(lk_sim *sim, const lk_sim_call *call)
{
    const lk_sim_rule *struck = NULL;
    for (size_t i = 0; i < sim->rule_count; i++) {
        lk_sim_rule *rule = &sim->rules[i];
        if (rule->op != LK_SIM_ANY && rule->op != call->op) continue;
        if (strstr(call->path, rule->part) == NULL) continue;
        bool is_over = rule->left == 0 && !rule->is_sticky;
        if (rule->left > 0) rule->left--;
        if (rule->left == 0 && !is_over && struck == NULL) struck = rule;
    }
    return struck;
}

lk_sim_call lk_sim_call_begin(lk_sim *sim, lk_sim_op op, const char *path, bool is_change,
                              const char *format, ...)
{
    lk_sim_call call = {.sim = sim, .op = op, .path = path, .is_change = is_change};
    va_list args;
    va_start(args, format);
    (void)vsnprintf(call.detail, sizeof call.detail, format, args);
    va_end(args);
    sim->now_ns += LK_SIM_CALL_NS;
    if (sim->is_dead) {
        call.sys_errno = EIO;
        return call;
    }
    sim->calls_of[LK_SIM_ANY]++;
    sim->calls_of[op]++;
    if (is_change) sim->calls++;
    if (is_change && sim->writeback_per_mille > 0) {
        lk_sim_disk_writeback(&sim->disk, sim->writeback_per_mille, &sim->fortune);
    }
    const lk_sim_rule *rule = rules_strike(sim, &call);
    if (rule != NULL) {
        call.sys_errno = rule->sys_errno;
        call.keep_bytes = rule->keep_bytes;
    }
    if (is_change && sim->crash_at > 0 && sim->calls >= sim->crash_at) {
        call.sys_errno = EIO;
        call.stops_machine = true;
        if (op != LK_SIM_WRITE) lk_sim_machine_stop(sim);
    }
    return call;
}

static void trace_add(lk_sim *sim, const lk_sim_call *call, int sys_errno)
{
    char failed[32] = "";
    if (sys_errno != 0) (void)snprintf(failed, sizeof failed, " failed %d", sys_errno);
    size_t need = strlen(call->path) + sizeof call->detail + sizeof failed + 32;
    if (sim->trace_capacity - sim->trace_bytes < need) {
        size_t capacity = 2 * sim->trace_capacity + need;
        char *grown = realloc(sim->trace, capacity);
        if (grown == NULL) abort(); /* a trace with a hole would prove the wrong thing */
        sim->trace = grown;
        sim->trace_capacity = capacity;
    }
    int n = snprintf(sim->trace + sim->trace_bytes, need, "%s %s%s%s%s\n", OP_NAMES[call->op],
                     call->path, call->detail[0] == '\0' ? "" : " ", call->detail, failed);
    sim->trace_bytes += (size_t)n;
}

lk_status lk_sim_call_end(const lk_sim_call *call, int sys_errno, lk_error *err)
{
    lk_sim *sim = call->sim;
    if (call->is_change && sim->is_tracing) trace_add(sim, call, sys_errno);
    lk_sim_let_go(sim);
    if (sys_errno == 0) return LK_OK;
    if (sys_errno == EINVAL) {
        return lk_fail(err, LK_INVALID, EINVAL, call->path, 0, 0, 0, "cannot %s %s %s",
                       OP_NAMES[call->op], call->path, call->detail);
    }
    if (sys_errno == EOPNOTSUPP) {
        return lk_fail(err, LK_UNSUPPORTED, EOPNOTSUPP, call->path, 0, 0, 0,
                       "the simulated machine cannot %s %s %s", OP_NAMES[call->op], call->path,
                       call->detail);
    }
    return lk_env_fail(err, sys_errno, OP_NAMES[call->op], call->path, call->offset);
}

/* ---- making machines ---- */

/* Seeds a generator: never zero, and neighbouring numbers far apart (SplitMix64, Steele 2014). */
uint64_t lk_sim_scatter(uint64_t number)
{
    uint64_t x = number + UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    x ^= x >> 31;
    return x != 0 ? x : 1;
}

static lk_sim *machine_new(uint64_t seed, const lk_env_ops *ops)
{
    lk_sim *sim = calloc(1, sizeof *sim);
    if (sim == NULL) return NULL;
    if (pthread_mutex_init(&sim->mutex, NULL) != 0) {
        free(sim);
        return NULL;
    }
    sim->env.ops = ops;
    sim->seed = seed;
    sim->chance = lk_sim_scatter(seed);
    sim->fortune = lk_sim_scatter(~seed);
    sim->may_map = true;
    sim->life = 1;
    return sim;
}

static void machine_free(lk_sim *sim)
{
    free(sim->trace);
    if (pthread_mutex_destroy(&sim->mutex) != 0) abort();
    free(sim);
}

lk_sim *lk_sim_machine_new(uint64_t seed, const lk_env_ops *ops)
{
    lk_sim *sim = machine_new(seed, ops);
    if (sim == NULL) return NULL;
    if (lk_sim_disk_init(&sim->disk)) return sim;
    machine_free(sim);
    return NULL;
}

lk_sim *lk_sim_clone(lk_sim *sim)
{
    lk_sim *clone = machine_new(sim->seed, sim->env.ops);
    if (clone == NULL) return NULL;
    lk_sim_hold(sim);
    bool fits = lk_sim_disk_clone(&sim->disk, &clone->disk);
    clone->now_ns = sim->now_ns;
    clone->boots = sim->boots;
    clone->chance = sim->chance;
    clone->fortune = sim->fortune;
    clone->is_real = sim->is_real;
    clone->may_map = sim->may_map;
    clone->calls = sim->calls;
    memcpy(clone->calls_of, sim->calls_of, sizeof clone->calls_of);
    clone->writeback_per_mille = sim->writeback_per_mille;
    lk_sim_let_go(sim);
    if (fits) return clone;
    machine_free(clone);
    return NULL;
}

void lk_sim_free(lk_sim *sim)
{
    if (sim == NULL) return;
    LK_ASSERT(sim->locks == NULL);
    lk_sim_disk_deinit(&sim->disk);
    machine_free(sim);
}

lk_env *lk_sim_env(lk_sim *sim) { return &sim->env; }

/* ---- the clock ---- */

uint64_t lk_sim_machine_wall_us(lk_sim *sim)
{
    return sim->is_real ? lk_env_wall_us(lk_env_posix()) : WALL_START_US + sim->now_ns / 1000;
}

/* ---- faults ---- */

static bool rule_add(lk_sim *sim, lk_sim_rule rule, const char *part)
{
    LK_ASSERT((unsigned)rule.op < LK_SIM_OPS && rule.left > 0 && rule.sys_errno > 0);
    LK_ASSERT(strlen(part) < sizeof rule.part);
    (void)snprintf(rule.part, sizeof rule.part, "%s", part);
    lk_sim_hold(sim);
    bool fits = sim->rule_count < LK_SIM_FAULTS_MAX;
    if (fits) sim->rules[sim->rule_count++] = rule;
    lk_sim_let_go(sim);
    return fits;
}

bool lk_sim_fail_on(lk_sim *sim, lk_sim_op op, const char *part, uint64_t nth, int sys_errno,
                    bool sticky)
{
    lk_sim_rule rule = {.op = op, .left = nth, .sys_errno = sys_errno, .is_sticky = sticky};
    return rule_add(sim, rule, part);
}

bool lk_sim_fail(lk_sim *sim, lk_sim_op op, uint64_t nth, int sys_errno, bool sticky)
{
    return lk_sim_fail_on(sim, op, "", nth, sys_errno, sticky);
}

bool lk_sim_short(lk_sim *sim, uint64_t nth, size_t bytes, int sys_errno)
{
    lk_sim_rule rule = {
        .op = LK_SIM_WRITE, .left = nth, .sys_errno = sys_errno, .keep_bytes = bytes};
    return rule_add(sim, rule, "");
}

void lk_sim_clear_faults(lk_sim *sim)
{
    lk_sim_hold(sim);
    sim->rule_count = 0;
    lk_sim_let_go(sim);
}

void lk_sim_set_capacity(lk_sim *sim, uint64_t bytes)
{
    lk_sim_hold(sim);
    sim->disk.pages_max = bytes == UINT64_MAX ? UINT64_MAX : bytes / LK_SIM_PAGE_BYTES;
    lk_sim_let_go(sim);
}

uint64_t lk_sim_used_bytes(lk_sim *sim)
{
    lk_sim_hold(sim);
    uint64_t bytes = sim->disk.used_pages * LK_SIM_PAGE_BYTES;
    lk_sim_let_go(sim);
    return bytes;
}

uint64_t lk_sim_calls(lk_sim *sim)
{
    lk_sim_hold(sim);
    uint64_t calls = sim->calls;
    lk_sim_let_go(sim);
    return calls;
}

uint64_t lk_sim_calls_of(lk_sim *sim, lk_sim_op op)
{
    LK_ASSERT((unsigned)op < LK_SIM_OPS);
    lk_sim_hold(sim);
    uint64_t calls = sim->calls_of[op];
    lk_sim_let_go(sim);
    return calls;
}

void lk_sim_crash_at(lk_sim *sim, uint64_t n)
{
    lk_sim_hold(sim);
    sim->crash_at = n;
    lk_sim_let_go(sim);
}

bool lk_sim_is_dead(lk_sim *sim)
{
    lk_sim_hold(sim);
    bool is_dead = sim->is_dead;
    lk_sim_let_go(sim);
    return is_dead;
}

/* ---- ends and new beginnings ---- */

/* Makes all handles stale; what they were opened on stays for as long as they do. */
static void process_end(lk_sim *sim)
{
    lk_sim_disk_end_process(&sim->disk);
    sim->locks = NULL; /* each is freed by whoever holds it */
    sim->life++;
    sim->rule_count = 0;
    sim->crash_at = 0;
    sim->is_dead = false;
}

void lk_sim_kill(lk_sim *sim)
{
    lk_sim_hold(sim);
    process_end(sim);
    lk_sim_let_go(sim);
}

void lk_sim_power_cut(lk_sim *sim, lk_sim_cut mode, uint64_t seed)
{
    LK_ASSERT((unsigned)mode <= LK_SIM_RANDOM);
    uint64_t rng = lk_sim_scatter(seed);
    lk_sim_hold(sim);
    process_end(sim);
    lk_sim_disk_power_cut(&sim->disk, mode, &rng);
    sim->boots++;
    lk_sim_let_go(sim);
}

void lk_sim_evict(lk_sim *sim)
{
    lk_sim_hold(sim);
    lk_sim_disk_evict(&sim->disk);
    lk_sim_let_go(sim);
}

void lk_sim_set_writeback(lk_sim *sim, unsigned per_mille)
{
    LK_ASSERT(per_mille <= 1000);
    lk_sim_hold(sim);
    sim->writeback_per_mille = per_mille;
    lk_sim_let_go(sim);
}

void lk_sim_advance(lk_sim *sim, uint64_t ns)
{
    lk_sim_hold(sim);
    sim->now_ns += ns;
    lk_sim_let_go(sim);
}

void lk_sim_set_real(lk_sim *sim, bool is_real)
{
    lk_sim_hold(sim);
    sim->is_real = is_real;
    lk_sim_let_go(sim);
}

void lk_sim_set_may_map(lk_sim *sim, bool may_map)
{
    lk_sim_hold(sim);
    sim->may_map = may_map;
    lk_sim_let_go(sim);
}

void lk_sim_trace(lk_sim *sim, bool is_on)
{
    lk_sim_hold(sim);
    sim->is_tracing = is_on;
    lk_sim_let_go(sim);
}

char *lk_sim_trace_take(lk_sim *sim)
{
    lk_sim_hold(sim);
    char *text = sim->trace != NULL ? sim->trace : strdup("");
    sim->trace = NULL;
    sim->trace_bytes = sim->trace_capacity = 0;
    lk_sim_let_go(sim);
    return text;
}
