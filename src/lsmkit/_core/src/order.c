/* order.c: sorted orders of a segment as counted objects.
 *
 * Owns      an order has a reference to each of its runs. The segment has one to the order made
 *           last, each reader one to the order that it walks.
 * Callers   order_build.c makes them; segment.c lets go of the last one when it is recycled.
 */
#include "order.h"

#include <stdlib.h>

#include "check.h"

#define MAP_BYTES_MIN ((size_t)1 << 20)

lk_status lk_order_alloc(lk_env *env, size_t bytes, void **out, lk_error *err)
{
    uint8_t *map;
    *out = NULL;
    if (bytes < MAP_BYTES_MIN) {
        *out = malloc(bytes);
        return *out == NULL ? lk_fail_nomem(err, bytes) : LK_OK;
    }
    lk_status st = lk_env_map_anonymous(env, bytes, &map, err);
    if (st == LK_OK) *out = map;
    return st;
}

void lk_order_free(lk_env *env, void *memory, size_t bytes)
{
    if (memory == NULL) return;
    if (bytes < MAP_BYTES_MIN) {
        free(memory);
    } else {
        lk_env_unmap(env, memory, bytes);
    }
}

static size_t run_bytes(uint32_t capacity)
{
    return sizeof(lk_order_run) + (size_t)capacity * sizeof(lk_order_item);
}

lk_status lk_order_run_new(lk_env *env, uint32_t capacity, lk_order_run **out, lk_error *err)
{
    void *memory;
    *out = NULL;
    lk_status st = lk_order_alloc(env, run_bytes(capacity), &memory, err);
    if (st != LK_OK) return st;
    lk_order_run *run = memory;
    atomic_init(&run->refs, 1);
    run->env = env;
    run->count = run->capacity = capacity;
    run->end = run->applied = 0;
    *out = run;
    return LK_OK;
}

void lk_order_run_unref(lk_order_run *run)
{
    if (run == NULL) return;
    uint32_t before = atomic_fetch_sub_explicit(&run->refs, 1, memory_order_acq_rel);
    LK_ASSERT(before > 0);
    if (before == 1) lk_order_free(run->env, run, run_bytes(run->capacity));
}

lk_order *lk_order_copy(const lk_order *old)
{
    lk_order *o = malloc(sizeof *o);
    if (o == NULL) return NULL;
    atomic_init(&o->refs, 1);
    o->covered = old == NULL ? 0 : old->covered;
    o->floor = old == NULL ? 0 : old->floor;
    o->run_count = old == NULL ? 0 : old->run_count;
    for (uint32_t i = 0; i < o->run_count; i++) {
        o->runs[i] = old->runs[i];
        atomic_fetch_add_explicit(&o->runs[i]->refs, 1, memory_order_relaxed);
    }
    return o;
}

void lk_order_ref(lk_order *o) { atomic_fetch_add_explicit(&o->refs, 1, memory_order_relaxed); }

void lk_order_unref(lk_order *o)
{
    if (o == NULL) return;
    uint32_t before = atomic_fetch_sub_explicit(&o->refs, 1, memory_order_acq_rel);
    LK_ASSERT(before > 0);
    if (before != 1) return;
    for (uint32_t i = 0; i < o->run_count; i++) lk_order_run_unref(o->runs[i]);
    free(o);
}
