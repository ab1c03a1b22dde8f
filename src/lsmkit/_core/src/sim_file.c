/* sim_file.c: pages, the three images of a file's content, and mappings of it.
 *
 * Owns      pages and mapped memory.
 * Callers   env_sim.c and sim_disk.c.
 * Threads   as sim_disk.h says; mapped memory is read here by loops that the thread sanitizer does
 *           not look at, because the program's stores into it cannot be ordered with them.
 * Always    a dirty page is one whose pointer in `now` is not that in `clean`: pages are replaced,
 *           never changed, once two images share them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bytes.h"
#include "check.h"
#include "sim_disk.h"

#if defined(__clang__)
#define UNORDERED __attribute__((noinline, no_sanitize("thread")))
#else
#define UNORDERED __attribute__((noinline, no_sanitize_thread))
#endif

/* What an allocated page holds before anything is written; its own reference is never given up. */
static lk_sim_page ZERO = {.refs = 1};

static size_t pages_of(uint64_t bytes)
{
    return (size_t)(lk_align_up(bytes, LK_SIM_PAGE_BYTES) / LK_SIM_PAGE_BYTES);
}

/* ---- pages ---- */

static lk_sim_page *page_ref(lk_sim_page *page)
{
    if (page != NULL) atomic_fetch_add_explicit(&page->refs, 1, memory_order_relaxed);
    return page;
}

static void page_unref(lk_sim_page *page)
{
    if (page == NULL) return;
    /* The last owner frees it, after everything that the others did with it. */
    if (atomic_fetch_sub_explicit(&page->refs, 1, memory_order_acq_rel) == 1) free(page);
}

static bool page_is_shared(lk_sim_page *page)
{
    return atomic_load_explicit(&page->refs, memory_order_acquire) > 1;
}

static lk_sim_page *page_new(const uint8_t *bytes)
{
    lk_sim_page *page = malloc(sizeof *page);
    if (page == NULL) return NULL;
    atomic_init(&page->refs, 1);
    memcpy(page->bytes, bytes, LK_SIM_PAGE_BYTES);
    return page;
}

UNORDERED static bool differs_unordered(const uint8_t *mapped, const uint8_t *bytes)
{
    const volatile uint64_t *a = (const volatile uint64_t *)(const volatile void *)mapped;
    for (size_t i = 0; i < LK_SIM_PAGE_BYTES / 8; i++) {
        if (a[i] != lk_load64(bytes + 8 * i)) return true;
    }
    return false;
}

UNORDERED static void copy_unordered(uint8_t *out, const uint8_t *mapped, size_t n)
{
    const volatile uint8_t *from = mapped;
    for (size_t i = 0; i < n; i++) out[i] = from[i];
}

UNORDERED static void store_unordered(uint8_t *mapped, const uint8_t *bytes, size_t n)
{
    volatile uint8_t *to = mapped;
    for (size_t i = 0; i < n; i++) to[i] = bytes[i];
}

/* ---- images ---- */

static bool image_reserve(lk_sim_image *image, size_t pages)
{
    if (pages <= image->capacity) return true;
    size_t capacity = image->capacity < 8 ? 8 : image->capacity;
    while (capacity < pages) capacity *= 2;
    lk_sim_page **grown = realloc(image->pages, capacity * sizeof(lk_sim_page *));
    if (grown == NULL) return false;
    memset(grown + image->capacity, 0, (capacity - image->capacity) * sizeof *grown);
    image->pages = grown;
    image->capacity = capacity;
    return true;
}

static lk_sim_page *image_get(const lk_sim_image *image, size_t i)
{
    return i < image->capacity ? image->pages[i] : NULL;
}

/* Takes over the reference to `page`. */
static void image_put(lk_sim_image *image, size_t i, lk_sim_page *page)
{
    LK_ASSERT(i < image->capacity);
    page_unref(image->pages[i]);
    image->pages[i] = page;
}

void lk_sim_image_deinit(lk_sim_image *image)
{
    for (size_t i = 0; i < image->capacity; i++) page_unref(image->pages[i]);
    free(image->pages);
    *image = (lk_sim_image){0};
}

bool lk_sim_image_clone(const lk_sim_image *image, lk_sim_image *out)
{
    *out = (lk_sim_image){.bytes = image->bytes};
    if (!image_reserve(out, image->capacity)) return false;
    for (size_t i = 0; i < image->capacity; i++) out->pages[i] = page_ref(image->pages[i]);
    return true;
}

/* As image_put, for the image whose pages count as used. */
static void now_put(lk_sim_disk *disk, lk_sim_inode *inode, size_t i, lk_sim_page *page)
{
    if (inode->is_counted) {
        disk->used_pages += (page != NULL);
        disk->used_pages -= (image_get(&inode->now, i) != NULL);
    }
    image_put(&inode->now, i, page);
}

void lk_sim_inode_recount(lk_sim_disk *disk, lk_sim_inode *inode)
{
    bool is_counted = inode->links + inode->uses > 0;
    if (is_counted == inode->is_counted) return;
    uint64_t pages = 0;
    for (size_t i = 0; i < inode->now.capacity; i++) pages += inode->now.pages[i] != NULL;
    disk->used_pages = is_counted ? disk->used_pages + pages : disk->used_pages - pages;
    inode->is_counted = is_counted;
}

void lk_sim_file_clear(lk_sim_disk *disk, lk_sim_inode *inode)
{
    LK_ASSERT(inode->region == NULL);
    for (size_t i = 0; i < inode->now.capacity; i++) now_put(disk, inode, i, NULL);
    lk_sim_image_deinit(&inode->now);
    lk_sim_image_deinit(&inode->clean);
    lk_sim_image_deinit(&inode->durable);
}

/* ---- mapped memory ---- */

static bool is_mapped(const lk_sim_inode *inode, size_t i)
{
    return inode->region != NULL && i * LK_SIM_PAGE_BYTES < inode->region->bytes;
}

/* `first` and `count` are pages. */
static int region_protect(lk_sim_region *region, size_t first, size_t count, bool is_read_only)
{
    int protection = is_read_only ? PROT_READ : PROT_READ | PROT_WRITE;
    uint8_t *from = region->map + first * LK_SIM_PAGE_BYTES;
    if (mprotect(from, count * LK_SIM_PAGE_BYTES, protection) != 0) return errno;
    memset(region->read_only + first, is_read_only, count);
    return 0;
}

static int region_protect_all(lk_sim_region *region, bool is_read_only)
{
    return region_protect(region, 0, region->bytes / LK_SIM_PAGE_BYTES, is_read_only);
}

/* Writes below a mapping, within a page, which may be read-only to the program but is not to the
 * kernel. */
static int region_write(lk_sim_region *region, uint64_t offset, const uint8_t *bytes, size_t n)
{
    size_t i = (size_t)(offset / LK_SIM_PAGE_BYTES);
    bool was_read_only = region->read_only[i] != 0;
    int why = was_read_only ? region_protect(region, i, 1, false) : 0;
    if (why != 0) return why;
    store_unordered(region->map + offset, bytes, n);
    return was_read_only ? region_protect(region, i, 1, true) : 0;
}

int lk_sim_file_harvest(lk_sim_disk *disk, lk_sim_inode *inode)
{
    if (inode->region == NULL) return 0;
    size_t count = inode->region->bytes / LK_SIM_PAGE_BYTES;
    if (!image_reserve(&inode->now, count)) return ENOMEM;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *mapped = inode->region->map + i * LK_SIM_PAGE_BYTES;
        lk_sim_page *known = image_get(&inode->now, i);
        if (!differs_unordered(mapped, known != NULL ? known->bytes : ZERO.bytes)) continue;
        lk_sim_page *page = page_new(ZERO.bytes);
        if (page == NULL) return ENOMEM;
        uint64_t at = (uint64_t)i * LK_SIM_PAGE_BYTES;
        uint64_t left = inode->now.bytes > at ? inode->now.bytes - at : 0;
        copy_unordered(page->bytes, mapped, left < LK_SIM_PAGE_BYTES ? left : LK_SIM_PAGE_BYTES);
        now_put(disk, inode, i, page);
    }
    return 0;
}

/* The mapping stays where it is and is of no file any more. */
static int region_cut(lk_sim_disk *disk, lk_sim_region *region)
{
    lk_sim_inode *inode = region->inode;
    if (inode == NULL) return 0;
    int why = lk_sim_file_harvest(disk, inode);
    if (why != 0) return why;
    inode->region = NULL;
    region->inode = NULL;
    lk_sim_inode_unuse(disk, inode);
    return 0;
}

/* A machine that cannot be looked at any more: only tests come here, and only without memory. */
static void must(int why)
{
    if (why != 0) abort();
}

static lk_sim_region *region_find(lk_sim_disk *disk, const uint8_t *map)
{
    for (lk_sim_region *region = disk->regions; region != NULL; region = region->next) {
        if (map >= region->map && map < region->map + region->bytes) return region;
    }
    return NULL;
}

static int region_new(lk_sim_disk *disk, size_t bytes, lk_sim_region **out)
{
    lk_sim_region *region = calloc(1, sizeof *region);
    if (region == NULL) return ENOMEM;
    region->bytes = pages_of(bytes) * LK_SIM_PAGE_BYTES;
    region->read_only = calloc(pages_of(bytes), 1);
    if (region->read_only == NULL) {
        free(region);
        return ENOMEM;
    }
    void *map =
        mmap(NULL, region->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) {
        free(region->read_only);
        free(region);
        return ENOMEM;
    }
    region->map = map;
    region->users = 1;
    region->next = disk->regions;
    disk->regions = region;
    *out = region;
    return 0;
}

int lk_sim_map_anonymous(lk_sim_disk *disk, size_t bytes, uint8_t **out)
{
    lk_sim_region *region = NULL;
    int why = region_new(disk, bytes, &region);
    if (why == 0) *out = region->map;
    return why;
}

int lk_sim_file_map(lk_sim_disk *disk, lk_sim_inode *inode, size_t bytes, bool writable,
                    uint8_t **out)
{
    lk_sim_region *region = inode->region;
    if (region != NULL) {
        /* All mappings of a file are one memory, which cannot grow where it stands. */
        if (pages_of(bytes) * LK_SIM_PAGE_BYTES > region->bytes) return EOPNOTSUPP;
        int why = writable ? region_protect_all(region, false) : 0;
        if (why != 0) return why;
        region->users++;
        *out = region->map;
        return 0;
    }
    int why = region_new(disk, bytes, &region);
    if (why != 0) return why;
    for (size_t i = 0; i < pages_of(bytes); i++) {
        const lk_sim_page *page = image_get(&inode->now, i);
        if (page == NULL || page == &ZERO) continue;
        memcpy(region->map + i * LK_SIM_PAGE_BYTES, page->bytes, LK_SIM_PAGE_BYTES);
    }
    region->inode = lk_sim_inode_use(disk, inode);
    inode->region = region;
    *out = region->map;
    return writable ? 0 : region_protect_all(region, true);
}

void lk_sim_unmap(lk_sim_disk *disk, uint8_t *map)
{
    lk_sim_region *region = region_find(disk, map);
    LK_ASSERT(region != NULL && region->map == map && region->users > 0);
    if (--region->users > 0) return;
    must(region_cut(disk, region));
    lk_sim_region **at = &disk->regions;
    while (*at != region) at = &(*at)->next;
    *at = region->next;
    must(munmap(region->map, region->bytes));
    free(region->read_only);
    free(region);
}

int lk_sim_protect(lk_sim_disk *disk, uint8_t *map, size_t bytes, bool writable)
{
    lk_sim_region *region = region_find(disk, map);
    if (region == NULL) return EINVAL;
    size_t at = (size_t)(map - region->map), count = pages_of(bytes);
    if (at % LK_SIM_PAGE_BYTES != 0 || count > (region->bytes - at) / LK_SIM_PAGE_BYTES)
        return EINVAL;
    return region_protect(region, at / LK_SIM_PAGE_BYTES, count, !writable);
}

int lk_sim_detach(lk_sim_disk *disk, uint8_t *map)
{
    lk_sim_region *region = region_find(disk, map);
    if (region == NULL || region->map != map) return EINVAL;
    int why = region_cut(disk, region);
    return why != 0 ? why : region_protect_all(region, false);
}

void lk_sim_disk_cut_mappings(lk_sim_disk *disk)
{
    for (lk_sim_region *region = disk->regions; region != NULL; region = region->next) {
        must(region_cut(disk, region));
    }
}

void lk_sim_disk_free_mappings(lk_sim_disk *disk)
{
    while (disk->regions != NULL) {
        disk->regions->users = 1;
        lk_sim_unmap(disk, disk->regions->map);
    }
}

/* ---- reading and writing ---- */

size_t lk_sim_file_read(const lk_sim_inode *inode, uint64_t offset, void *buf, size_t n)
{
    if (offset >= inode->now.bytes) return 0;
    if (n > inode->now.bytes - offset) n = (size_t)(inode->now.bytes - offset);
    for (size_t done = 0; done < n;) {
        size_t i = (size_t)((offset + done) / LK_SIM_PAGE_BYTES);
        size_t at = (size_t)((offset + done) % LK_SIM_PAGE_BYTES);
        size_t part = LK_SIM_PAGE_BYTES - at < n - done ? LK_SIM_PAGE_BYTES - at : n - done;
        const lk_sim_page *page = image_get(&inode->now, i);
        if (is_mapped(inode, i)) {
            copy_unordered((uint8_t *)buf + done, inode->region->map + offset + done, part);
        } else {
            memcpy((uint8_t *)buf + done, (page != NULL ? page : &ZERO)->bytes + at, part);
        }
        done += part;
    }
    return n;
}

/* Makes page i one that counts as used; a mapped one stands for what is in the mapping. */
static int page_allocate(lk_sim_disk *disk, lk_sim_inode *inode, size_t i)
{
    if (!image_reserve(&inode->now, i + 1)) return ENOMEM;
    if (inode->now.pages[i] != NULL) return 0;
    if (disk->used_pages >= disk->pages_max) return ENOSPC;
    now_put(disk, inode, i, page_ref(&ZERO));
    return 0;
}

static int write_within_page(lk_sim_disk *disk, lk_sim_inode *inode, uint64_t offset,
                             const uint8_t *bytes, size_t n)
{
    size_t i = (size_t)(offset / LK_SIM_PAGE_BYTES);
    int why = page_allocate(disk, inode, i);
    if (why != 0) return why;
    if (is_mapped(inode, i)) return region_write(inode->region, offset, bytes, n);
    lk_sim_page *page = inode->now.pages[i];
    if (page_is_shared(page)) {
        page = page_new(page->bytes);
        if (page == NULL) return ENOMEM;
        now_put(disk, inode, i, page);
    }
    memcpy(page->bytes + offset % LK_SIM_PAGE_BYTES, bytes, n);
    return 0;
}

int lk_sim_file_write(lk_sim_disk *disk, lk_sim_inode *inode, uint64_t offset, const void *buf,
                      size_t n, size_t *out_n)
{
    *out_n = 0;
    if (pages_of(offset + n) > LK_SIM_FILE_PAGES_MAX) return EFBIG;
    while (*out_n < n) {
        uint64_t at = offset + *out_n;
        size_t room = LK_SIM_PAGE_BYTES - (size_t)(at % LK_SIM_PAGE_BYTES);
        size_t part = n - *out_n < room ? n - *out_n : room;
        int why = write_within_page(disk, inode, at, (const uint8_t *)buf + *out_n, part);
        if (why != 0) return why;
        *out_n += part;
        if (inode->now.bytes < at + part) inode->now.bytes = at + part;
    }
    return 0;
}

/* Drops the pages behind the end of `image` and clears what is behind it in the last one, so that a
 * file that grows again reads as zeros there. */
static int image_trim(lk_sim_image *image)
{
    for (size_t i = pages_of(image->bytes); i < image->capacity; i++) image_put(image, i, NULL);
    size_t rest = (size_t)(image->bytes % LK_SIM_PAGE_BYTES);
    lk_sim_page *last =
        rest == 0 ? NULL : image_get(image, (size_t)(image->bytes / LK_SIM_PAGE_BYTES));
    if (last == NULL) return 0;
    bool is_clear = memcmp(last->bytes + rest, ZERO.bytes, LK_SIM_PAGE_BYTES - rest) == 0;
    if (is_clear) return 0;
    lk_sim_page *copy = page_new(last->bytes);
    if (copy == NULL) return ENOMEM;
    memset(copy->bytes + rest, 0, LK_SIM_PAGE_BYTES - rest);
    image_put(image, (size_t)(image->bytes / LK_SIM_PAGE_BYTES), copy);
    return 0;
}

int lk_sim_file_truncate(lk_sim_disk *disk, lk_sim_inode *inode, uint64_t bytes)
{
    if (pages_of(bytes) > LK_SIM_FILE_PAGES_MAX) return EFBIG;
    /* On a real machine the program would die when it touched the mapping. */
    if (inode->region != NULL && pages_of(bytes) * LK_SIM_PAGE_BYTES < inode->region->bytes) {
        return EINVAL;
    }
    for (size_t i = pages_of(bytes); i < inode->now.capacity; i++) now_put(disk, inode, i, NULL);
    inode->now.bytes = bytes;
    return image_trim(&inode->now);
}

int lk_sim_file_allocate(lk_sim_disk *disk, lk_sim_inode *inode, uint64_t bytes)
{
    size_t count = pages_of(bytes), missing = 0;
    if (count > LK_SIM_FILE_PAGES_MAX) return EFBIG;
    if (!image_reserve(&inode->now, count)) return ENOMEM;
    for (size_t i = 0; i < count; i++) missing += inode->now.pages[i] == NULL;
    uint64_t used = disk->used_pages;
    if (used > disk->pages_max || missing > disk->pages_max - used) return ENOSPC;
    for (size_t i = 0; i < count; i++) must(page_allocate(disk, inode, i));
    if (inode->now.bytes < bytes) inode->now.bytes = bytes;
    return 0;
}

/* ---- what the disk has ---- */

/* Readies the three images for page indexes below the largest of their capacities. */
static int images_align(lk_sim_inode *inode, size_t *out_count)
{
    size_t count = inode->now.capacity;
    if (inode->clean.capacity > count) count = inode->clean.capacity;
    if (inode->durable.capacity > count) count = inode->durable.capacity;
    bool fits = image_reserve(&inode->now, count) && image_reserve(&inode->clean, count) &&
                image_reserve(&inode->durable, count);
    *out_count = count;
    return fits ? 0 : ENOMEM;
}

static bool is_dirty(const lk_sim_inode *inode, size_t i)
{
    return inode->now.pages[i] != inode->clean.pages[i];
}

/* The kernel wrote page i, or believes so. */
static void page_clean(lk_sim_inode *inode, size_t i, bool is_written)
{
    lk_sim_page *page = inode->now.pages[i];
    image_put(&inode->clean, i, page_ref(page));
    if (is_written) image_put(&inode->durable, i, page_ref(page));
}

/* A page behind the durable end takes the end with it: also where an earlier sync failed and the
 * length was called clean with the pages, whoever writes the last page again has the length too. */
static void page_write(lk_sim_inode *inode, size_t i)
{
    page_clean(inode, i, true);
    uint64_t end = (uint64_t)(i + 1) * LK_SIM_PAGE_BYTES;
    if (end > inode->now.bytes) end = inode->now.bytes;
    if (end > inode->durable.bytes) inode->durable.bytes = end;
}

int lk_sim_file_sync(lk_sim_disk *disk, lk_sim_inode *inode)
{
    size_t count = 0;
    int why = lk_sim_file_harvest(disk, inode);
    if (why == 0) why = images_align(inode, &count);
    if (why != 0) return why;
    for (size_t i = 0; i < count; i++) {
        if (is_dirty(inode, i)) page_write(inode, i);
    }
    if (inode->now.bytes != inode->clean.bytes) {
        inode->clean.bytes = inode->durable.bytes = inode->now.bytes;
    }
    return 0;
}

int lk_sim_file_sync_failed(lk_sim_disk *disk, lk_sim_inode *inode, uint64_t *rng)
{
    size_t count = 0;
    int why = lk_sim_file_harvest(disk, inode);
    if (why == 0) why = images_align(inode, &count);
    if (why != 0) return why;
    for (size_t i = 0; i < count; i++) {
        if (is_dirty(inode, i)) page_clean(inode, i, lk_sim_below(rng, 2) == 0);
    }
    if (inode->now.bytes != inode->clean.bytes) {
        inode->clean.bytes = inode->now.bytes;
        if (lk_sim_below(rng, 2) == 0) inode->durable.bytes = inode->now.bytes;
    }
    return 0;
}

void lk_sim_file_writeback(lk_sim_disk *disk, lk_sim_inode *inode, unsigned per_mille,
                           uint64_t *rng)
{
    size_t count = 0;
    must(lk_sim_file_harvest(disk, inode));
    must(images_align(inode, &count));
    for (size_t i = 0; i < count; i++) {
        if (!is_dirty(inode, i) || lk_sim_below(rng, 1000) >= per_mille) continue;
        page_write(inode, i);
    }
}

/* Some bytes of a page that was being written when the power went. */
static void page_tear(lk_sim_inode *inode, size_t i, size_t piece_bytes, uint64_t *rng)
{
    const lk_sim_page *before = inode->durable.pages[i], *after = inode->now.pages[i];
    lk_sim_page *torn = page_new(before != NULL ? before->bytes : ZERO.bytes);
    must(torn == NULL);
    for (size_t at = 0; at < LK_SIM_PAGE_BYTES; at += piece_bytes) {
        const uint8_t *bytes = (after != NULL ? after : &ZERO)->bytes;
        if (lk_sim_below(rng, 2) == 0) memcpy(torn->bytes + at, bytes + at, piece_bytes);
    }
    image_put(&inode->durable, i, torn);
}

/* Each dirty page kept, lost or torn; one chance for the whole file, so that "all but one" and
 * "almost nothing" come about as well as "half of them". */
static void pages_by_chance(lk_sim_inode *inode, size_t count, uint64_t *rng)
{
    static const unsigned KEPT_OF_16[] = {1, 4, 8, 12, 15};
    unsigned kept = KEPT_OF_16[lk_sim_below(rng, sizeof KEPT_OF_16 / sizeof *KEPT_OF_16)];
    bool may_tear = lk_sim_below(rng, 2) == 0;
    for (size_t i = 0; i < count; i++) {
        if (!is_dirty(inode, i)) continue;
        if (may_tear && lk_sim_below(rng, 4) == 0) {
            page_tear(inode, i, lk_sim_below(rng, 2) == 0 ? 64 : 512, rng);
        } else if (lk_sim_below(rng, 16) < kept) {
            page_clean(inode, i, true);
        }
    }
}

void lk_sim_file_settle(lk_sim_disk *disk, lk_sim_inode *inode, lk_sim_cut mode, uint64_t *rng)
{
    size_t count = 0;
    LK_ASSERT(inode->region == NULL);
    if (mode == LK_SIM_KEEP_ALL) must(lk_sim_file_sync(disk, inode));
    must(images_align(inode, &count));
    if (mode == LK_SIM_RANDOM) {
        bool is_longer = inode->now.bytes != inode->clean.bytes;
        if (is_longer && lk_sim_below(rng, 2) == 0) inode->durable.bytes = inode->now.bytes;
        /* Pages that a shorter length gave up go with the length alone. */
        size_t present = pages_of(inode->now.bytes);
        pages_by_chance(inode, count < present ? count : present, rng);
    }
    must(image_trim(&inode->durable));
    for (size_t i = 0; i < count; i++) {
        lk_sim_page *page = inode->durable.pages[i];
        now_put(disk, inode, i, page_ref(page));
        image_put(&inode->clean, i, page_ref(page));
    }
    inode->now.bytes = inode->clean.bytes = inode->durable.bytes;
}

void lk_sim_file_evict(lk_sim_disk *disk, lk_sim_inode *inode)
{
    size_t count = 0;
    must(lk_sim_file_harvest(disk, inode));
    must(images_align(inode, &count));
    for (size_t i = 0; i < count; i++) {
        lk_sim_page *page = inode->durable.pages[i];
        if (is_dirty(inode, i) || page == inode->clean.pages[i]) continue;
        now_put(disk, inode, i, page_ref(page));
        image_put(&inode->clean, i, page_ref(page));
        if (is_mapped(inode, i)) {
            const uint8_t *bytes = (page != NULL ? page : &ZERO)->bytes;
            must(region_write(inode->region, i * LK_SIM_PAGE_BYTES, bytes, LK_SIM_PAGE_BYTES));
        }
    }
}
