/* sim_machine.h: the state of a simulated machine, and the beginning and end of every call to it.
 *
 * Owns      the mutex, the rules of failure, the counts, the clock, the trace.
 * Callers   env_sim.c, whose functions are all a begin, some work on the disk, and an end.
 * Threads   from lk_sim_call_begin, which finds the mutex held, to lk_sim_call_end, which gives it
 *           back, a call is alone.
 * Always    a call is counted, then perhaps failed, then done; a handle from before the last kill
 *           or power cut is stale, known by its `life`.
 */
#ifndef LK_SIM_MACHINE_H
#define LK_SIM_MACHINE_H

#include <pthread.h>

#include "env_sim.h"
#include "sim_disk.h"

enum { LK_SIM_CALL_NS = 1000, LK_SIM_DETAIL_BYTES = 96 };

typedef struct lk_sim_rule {
    lk_sim_op op;
    char part[LK_SIM_PART_BYTES_MAX];
    uint64_t left; /* calls until it strikes; 0 for a sticky rule that has begun */
    int sys_errno;
    size_t keep_bytes; /* of a write, done before it fails */
    bool is_sticky;
} lk_sim_rule;

struct lk_sim {
    lk_env env; /* first: an environment is its machine */
    pthread_mutex_t mutex;
    /* Everything below is guarded by the mutex. */
    lk_sim_disk disk;
    uint64_t life;
    uint64_t now_ns;
    uint64_t boots;
    uint64_t seed;
    uint64_t chance;  /* what the program gets */
    uint64_t fortune; /* what befalls it */
    bool is_real, may_map;
    lk_sim_rule rules[LK_SIM_FAULTS_MAX];
    size_t rule_count;
    uint64_t calls, crash_at;
    uint64_t calls_of[LK_SIM_OPS];
    bool is_dead;
    unsigned writeback_per_mille;
    struct lk_sim_lock *locks;
    bool is_tracing;
    char *trace;
    size_t trace_bytes, trace_capacity;
};

/* A call under way: the mutex is held from begin to end. */
typedef struct lk_sim_call {
    lk_sim *sim;
    lk_sim_op op;
    const char *path;
    bool is_change;
    bool stops_machine; /* when this write is done as far as keep_bytes */
    int sys_errno;      /* not 0: the call fails */
    size_t keep_bytes;
    uint64_t offset; /* for the error */
    char detail[LK_SIM_DETAIL_BYTES];
} lk_sim_call;

lk_sim *lk_sim_machine_new(uint64_t seed, const lk_env_ops *ops);
void lk_sim_hold(lk_sim *sim);
void lk_sim_let_go(lk_sim *sim);
/* What `format` gives is noted in the trace and in errors. */
lk_sim_call lk_sim_call_begin(lk_sim *sim, lk_sim_op op, const char *path, bool is_change,
                              const char *format, ...) __attribute__((format(printf, 5, 6)));
lk_status lk_sim_call_end(const lk_sim_call *call, int sys_errno, lk_error *err);
/* All calls fail from here on, and mappings are cut off. */
void lk_sim_machine_stop(lk_sim *sim);
uint64_t lk_sim_machine_wall_us(lk_sim *sim);
/* Spreads neighbouring numbers; never zero. */
uint64_t lk_sim_scatter(uint64_t number);

#endif
