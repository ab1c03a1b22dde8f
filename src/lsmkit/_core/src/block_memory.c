/* block_memory.c: regions, cut into slabs, cut into places of one size each.
 *
 * Callers   block.c, for every block that is decoded.
 * Threads   everything is guarded by one mutex; mappings of single blocks are made outside it.
 * Always    a place belongs to a slab, which is found from its address: regions are aligned to their
 *           size, and begin with a head that describes their slabs. A slab without blocks goes back
 *           to its region and may become one of another size; a region without slabs in use is
 *           unmapped, but for one that is kept.
 *
 * Memory comes from mmap, not through env: like malloc it is no file, and nothing to be simulated.
 * Once there is much of it regions ask for huge pages, which save a point read a tenth of its time.
 *
 *   region, 2 MiB                                   slab, 512 KiB
 *   +--------+--------+--------+--------+           +-------+-------+-----+-------+------+
 *   | slab 0 | slab 1 | slab 2 | slab 3 |           | place | place | ... | place | rest |
 *   +--------+--------+--------+--------+           +-------+-------+-----+-------+------+
 *     (its first 4 KiB are the region's head)
 */
#include "block_memory.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"

enum {
    REGION_BYTES = 2 << 20,
    SLAB_BYTES = 512 << 10,
    SLABS = REGION_BYTES / SLAB_BYTES,
    HEAD_BYTES = 4096,
    PAGE_BYTES = 4096,
    PLACE_BYTES_MIN = 512,
    PLACE_BYTES_MAX = 128 << 10, /* larger blocks have mappings of their own */
    STEPS = 16,                  /* classes between a power of two and the next */
    HUGE_BYTES_MIN = 32 << 20,   /* a small cache would pay 2 MiB for its last block, a new one the
                                    clearing of 2 MiB for its first */
    DOUBLINGS = 8,               /* from the least place to the largest */
    CLASSES = STEPS * DOUBLINGS + 1,
};
_Static_assert(PLACE_BYTES_MIN << DOUBLINGS == PLACE_BYTES_MAX, "the classes reach the largest");

#if defined(__SANITIZE_ADDRESS__)
#define IS_PLAIN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define IS_PLAIN 1
#endif
#endif
#ifndef IS_PLAIN
#define IS_PLAIN 0 /* 1: malloc, so that the sanitizer sees the use of a freed block */
#endif

typedef struct free_place {
    struct free_place *next;
} free_place;

typedef struct slab {
    struct slab *next, *previous; /* in the list of its class's slabs with room, or of free slabs */
    free_place *given;            /* places that were given back */
    uint8_t *fresh;               /* from here on nothing was taken yet */
    uint8_t *end;
    uint32_t used, class_index;
    bool is_listed;
} slab;

typedef struct region {
    slab slabs[SLABS];
    uint32_t used_slabs;
} region;
_Static_assert(sizeof(region) <= HEAD_BYTES, "the head of a region fits before its first place");

static struct {
    pthread_mutex_t mutex;
    /* guarded by mutex: */
    slab *with_room[CLASSES];
    slab *free_slabs;
    uint32_t idle_regions;
    /* atomic: */
    atomic_size_t total;
} memory = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* ---- sizes ---- */

static size_t class_bytes(uint32_t class_index)
{
    uint32_t doubling = class_index / STEPS, step = class_index % STEPS;
    return ((size_t)PLACE_BYTES_MIN << doubling) / STEPS * (STEPS + step);
}

/* The least class with room for `bytes`, which are no more than PLACE_BYTES_MAX. */
static uint32_t class_of(size_t bytes)
{
    if (bytes <= PLACE_BYTES_MIN) return 0;
    uint32_t doubling = (uint32_t)(63 - __builtin_clzll((bytes - 1) / PLACE_BYTES_MIN));
    size_t base = (size_t)PLACE_BYTES_MIN << doubling, step = base / STEPS;
    return doubling * STEPS + (uint32_t)((bytes - base + step - 1) / step);
}

size_t lk_block_memory_size(size_t bytes)
{
    size_t to = bytes > PLACE_BYTES_MAX ? PAGE_BYTES : 64;
    bytes = (bytes + to - 1) & ~(to - 1);
    if (bytes > PLACE_BYTES_MAX || IS_PLAIN) return bytes;
    return (class_bytes(class_of(bytes)) + 63) & ~(size_t)63;
}

/* ---- lists ---- */

static void list_push(slab **list, slab *s)
{
    s->previous = NULL;
    s->next = *list;
    if (*list != NULL) (*list)->previous = s;
    *list = s;
    s->is_listed = true;
}

static void list_remove(slab **list, slab *s)
{
    if (s->previous != NULL) {
        s->previous->next = s->next;
    } else {
        *list = s->next;
    }
    if (s->next != NULL) s->next->previous = s->previous;
    s->is_listed = false;
}

/* ---- regions and slabs (the mutex is held) ---- */

static region *region_of(const void *address)
{
    return (region *)((uintptr_t)address & ~(uintptr_t)(REGION_BYTES - 1));
}

static void *map_pages(size_t bytes)
{
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return NULL;
    atomic_fetch_add_explicit(&memory.total, bytes, memory_order_relaxed);
    return map;
}

static void unmap_pages(void *map, size_t bytes)
{
    (void)munmap(map, bytes);
    atomic_fetch_sub_explicit(&memory.total, bytes, memory_order_relaxed);
}

/* Aligned by cutting both ends off a mapping of twice the size. */
static region *region_map(void)
{
    uint8_t *map = map_pages(2 * (size_t)REGION_BYTES);
    if (map == NULL) return NULL;
    uint8_t *aligned = (uint8_t *)region_of(map + REGION_BYTES - 1);
    size_t before = (size_t)(aligned - map);
    if (before > 0) unmap_pages(map, before);
    if (before < REGION_BYTES) unmap_pages(aligned + REGION_BYTES, REGION_BYTES - before);
#if defined(MADV_HUGEPAGE)
    if (lk_block_memory_total() > HUGE_BYTES_MIN) {
        (void)madvise(aligned, REGION_BYTES, MADV_HUGEPAGE);
    }
#endif
    return (region *)(void *)aligned;
}

static bool add_region(void)
{
    region *r = region_map();
    if (r == NULL) return false;
    for (int i = SLABS - 1; i >= 0; i--) list_push(&memory.free_slabs, &r->slabs[i]);
    memory.idle_regions++;
    return true;
}

static slab *slab_take(uint32_t class_index)
{
    if (memory.free_slabs == NULL && !add_region()) return NULL;
    slab *s = memory.free_slabs;
    list_remove(&memory.free_slabs, s);
    region *r = region_of(s);
    if (r->used_slabs++ == 0) memory.idle_regions--;
    size_t index = (size_t)(s - r->slabs);
    s->fresh = (uint8_t *)r + index * SLAB_BYTES + (index == 0 ? HEAD_BYTES : 0);
    s->end = (uint8_t *)r + (index + 1) * SLAB_BYTES;
    s->given = NULL;
    s->used = 0;
    s->class_index = class_index;
    list_push(&memory.with_room[class_index], s);
    return s;
}

static void slab_give(slab *s)
{
    region *r = region_of(s);
    list_remove(&memory.with_room[s->class_index], s);
    list_push(&memory.free_slabs, s);
    if (--r->used_slabs > 0 || memory.idle_regions++ == 0) return;
    for (int i = 0; i < SLABS; i++) list_remove(&memory.free_slabs, &r->slabs[i]);
    memory.idle_regions--;
    unmap_pages(r, REGION_BYTES);
}

/* ---- places (the mutex is held) ---- */

static bool has_room(const slab *s, size_t size)
{
    return s->given != NULL || (size_t)(s->end - s->fresh) >= size;
}

static void *place_take(size_t size)
{
    uint32_t class_index = class_of(size);
    slab *s = memory.with_room[class_index];
    if (s == NULL) s = slab_take(class_index);
    if (s == NULL) return NULL;
    void *place = s->given;
    if (place != NULL) {
        s->given = s->given->next;
    } else {
        place = s->fresh;
        s->fresh += size;
    }
    s->used++;
    if (!has_room(s, size)) list_remove(&memory.with_room[class_index], s);
    return place;
}

static void place_give(void *place)
{
    region *r = region_of(place);
    slab *s = &r->slabs[(size_t)((uint8_t *)place - (uint8_t *)r) / SLAB_BYTES];
    LK_ASSERT(s->used > 0);
    free_place *f = place;
    f->next = s->given;
    s->given = f;
    if (!s->is_listed) list_push(&memory.with_room[s->class_index], s);
    if (--s->used == 0) slab_give(s);
}

/* ---- outside ---- */

static void hold(void) { (void)pthread_mutex_lock(&memory.mutex); }
static void let_go(void) { (void)pthread_mutex_unlock(&memory.mutex); }

/* A child forked while another thread is inside would wait for it for ever. */
static void mind_forks(void)
{
    if (pthread_atfork(hold, let_go, let_go) != 0) abort();
}

void *lk_block_memory_take(size_t size)
{
    if (IS_PLAIN) return aligned_alloc(64, size);
    if (size > PLACE_BYTES_MAX) return map_pages(size);
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, mind_forks);
    pthread_mutex_lock(&memory.mutex);
    void *taken = place_take(size);
    pthread_mutex_unlock(&memory.mutex);
    return taken;
}

void lk_block_memory_give(void *given, size_t size)
{
    if (given == NULL) return;
    if (IS_PLAIN) {
        free(given);
        return;
    }
#if defined(LK_DEBUG) && LK_DEBUG
    memset(given, 0xdd, size < PLACE_BYTES_MIN ? size : PLACE_BYTES_MIN);
#endif
    if (size > PLACE_BYTES_MAX) {
        unmap_pages(given, size);
        return;
    }
    pthread_mutex_lock(&memory.mutex);
    place_give(given);
    pthread_mutex_unlock(&memory.mutex);
}

size_t lk_block_memory_total(void)
{
    return atomic_load_explicit(&memory.total, memory_order_relaxed);
}
