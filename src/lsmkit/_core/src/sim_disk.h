/* sim_disk.h: the disk and the cache of the simulated machine: pages, files, names, and what of
 * them survives.
 *
 * Owns      every inode, page and mapping of one machine.
 * Callers   env_sim.c alone, which adds faults, the clock and the lock.
 * Threads   the caller's mutex is held in every call; pages are shared between clones, and their
 *           counts are atomic. Mapped memory is read while other threads store into it, as a kernel
 *           does.
 * Always    a page with more than one owner is never changed; an inode lives as long as a name, an
 *           entry of the log, a handle or a mapping holds it.
 * Errors    functions that give an int give an errno, 0 for success.
 */
#ifndef LK_SIM_DISK_H
#define LK_SIM_DISK_H

#include <stdatomic.h>

#include "env_sim.h"

enum {
    LK_SIM_PAGE_BYTES = LK_PAGE_BYTES,
    LK_SIM_NAME_BYTES_MAX = 255,
    LK_SIM_FILE_PAGES_MAX = 1 << 22, /* 16 GiB: beyond is EFBIG */
};

typedef struct lk_sim_page {
    atomic_uint refs;
    uint8_t bytes[LK_SIM_PAGE_BYTES];
} lk_sim_page;

/* One state of a file's content; a page that is NULL reads as zeros and takes up nothing. */
typedef struct lk_sim_image {
    lk_sim_page **pages;
    size_t capacity;
    uint64_t bytes;
} lk_sim_image;

typedef struct lk_sim_inode lk_sim_inode;
typedef struct lk_sim_region lk_sim_region;

typedef struct lk_sim_entry {
    char *name;
    lk_sim_inode *inode; /* counted */
} lk_sim_entry;

typedef struct lk_sim_entries {
    lk_sim_entry *items;
    size_t count;
    size_t capacity;
} lk_sim_entries;

struct lk_sim_inode {
    lk_sim_inode *next, **link; /* in the disk's list */
    lk_sim_inode *twin;         /* while the disk is cloned */
    unsigned refs;
    unsigned links;  /* present names */
    unsigned uses;   /* open files and mappings of the living process */
    bool is_counted; /* links or uses: its pages are among the used ones */
    bool is_dir;
    /* Of a file. */
    lk_sim_image now;      /* what reads see; below region->bytes the mapping is the truth */
    lk_sim_image clean;    /* what the kernel believes to be on the disk */
    lk_sim_image durable;  /* what is */
    lk_sim_region *region; /* NULL unless mapped */
    /* Of a directory. */
    lk_sim_entries names;
    lk_sim_entries durable_names;
};

/* Mapped memory; of no file once it is anonymous, detached or cut off. */
struct lk_sim_region {
    lk_sim_region *next;
    uint8_t *map;
    size_t bytes; /* whole pages */
    lk_sim_inode *inode;
    unsigned users;
    uint8_t *read_only; /* one a page: not 0 where the program may not store */
};

/* A change of one or two names that is not on the disk yet; `inode` is NULL where the name goes. */
typedef struct lk_sim_change {
    lk_sim_inode *dir;
    char *name;
    lk_sim_inode *inode;
} lk_sim_change;

typedef struct lk_sim_record {
    lk_sim_change changes[2];
    size_t count;
} lk_sim_record;

typedef struct lk_sim_disk {
    lk_sim_inode *inodes;
    lk_sim_inode *root;
    lk_sim_region *regions;
    lk_sim_record *log;
    size_t log_count, log_capacity;
    uint64_t used_pages, pages_max;
} lk_sim_disk;

bool lk_sim_disk_init(lk_sim_disk *disk);
void lk_sim_disk_deinit(lk_sim_disk *disk);
/* `out` is not initialised before, and holds nothing after a failure. */
bool lk_sim_disk_clone(lk_sim_disk *disk, lk_sim_disk *out);

/* ---- names ---- */

/* The directory and last name of `path`, borrowed; `out_name` holds LK_SIM_NAME_BYTES_MAX + 1, and
 * is empty for the root itself. */
int lk_sim_disk_resolve(lk_sim_disk *disk, const char *path, lk_sim_inode **out_dir,
                        char *out_name);
/* Borrowed; NULL where there is no such file or directory. */
lk_sim_inode *lk_sim_disk_find(lk_sim_disk *disk, const char *path);
int lk_sim_disk_make(lk_sim_disk *disk, const char *path, bool is_dir, lk_sim_inode **out);
int lk_sim_disk_remove(lk_sim_disk *disk, const char *path, bool is_dir);
int lk_sim_disk_link(lk_sim_disk *disk, const char *from, const char *to);
int lk_sim_disk_rename(lk_sim_disk *disk, const char *from, const char *to);
int lk_sim_disk_sync_dir(lk_sim_disk *disk, const char *path);

lk_sim_inode *lk_sim_inode_ref(lk_sim_inode *inode);
void lk_sim_inode_unref(lk_sim_disk *disk, lk_sim_inode *inode);
/* As ref and unref, by the living process. */
lk_sim_inode *lk_sim_inode_use(lk_sim_disk *disk, lk_sim_inode *inode);
void lk_sim_inode_unuse(lk_sim_disk *disk, lk_sim_inode *inode);
/* After links or uses have changed: a file that has neither takes up nothing any more, although its
 * name may still be on the disk. */
void lk_sim_inode_recount(lk_sim_disk *disk, lk_sim_inode *inode);

/* ---- content ---- */

size_t lk_sim_file_read(const lk_sim_inode *inode, uint64_t offset, void *buf, size_t n);
/* *out_n is what was written, also when the disk is full. */
int lk_sim_file_write(lk_sim_disk *disk, lk_sim_inode *inode, uint64_t offset, const void *buf,
                      size_t n, size_t *out_n);
int lk_sim_file_truncate(lk_sim_disk *disk, lk_sim_inode *inode, uint64_t bytes);
int lk_sim_file_allocate(lk_sim_disk *disk, lk_sim_inode *inode, uint64_t bytes);
int lk_sim_file_sync(lk_sim_disk *disk, lk_sim_inode *inode);
/* The kernel calls everything clean; each dirty page has reached the disk or not, by chance. */
int lk_sim_file_sync_failed(lk_sim_disk *disk, lk_sim_inode *inode, uint64_t *rng);

/* Brings what was stored into a mapping into the image of the file. */
int lk_sim_file_harvest(lk_sim_disk *disk, lk_sim_inode *inode);
void lk_sim_file_clear(lk_sim_disk *disk, lk_sim_inode *inode);
bool lk_sim_image_clone(const lk_sim_image *image, lk_sim_image *out);
void lk_sim_image_deinit(lk_sim_image *image);

int lk_sim_file_map(lk_sim_disk *disk, lk_sim_inode *inode, size_t bytes, bool writable,
                    uint8_t **out);
int lk_sim_map_anonymous(lk_sim_disk *disk, size_t bytes, uint8_t **out);
void lk_sim_unmap(lk_sim_disk *disk, uint8_t *map);
int lk_sim_protect(lk_sim_disk *disk, uint8_t *map, size_t bytes, bool writable);
int lk_sim_detach(lk_sim_disk *disk, uint8_t *map);

/* ---- ends ---- */

/* What is stored into mappings from now on reaches no file. */
void lk_sim_disk_cut_mappings(lk_sim_disk *disk);
/* That, and open files are used by nobody: whoever closes one later calls unref. */
void lk_sim_disk_end_process(lk_sim_disk *disk);
/* The cache is lost, the disk is what `mode` makes of it. Mappings were cut before. */
void lk_sim_disk_power_cut(lk_sim_disk *disk, lk_sim_cut mode, uint64_t *rng);
void lk_sim_disk_evict(lk_sim_disk *disk);
/* Writes each dirty page with this chance. */
void lk_sim_disk_writeback(lk_sim_disk *disk, unsigned per_mille, uint64_t *rng);
void lk_sim_disk_free_mappings(lk_sim_disk *disk);
/* The same of one file. */
void lk_sim_file_settle(lk_sim_disk *disk, lk_sim_inode *inode, lk_sim_cut mode, uint64_t *rng);
void lk_sim_file_evict(lk_sim_disk *disk, lk_sim_inode *inode);
void lk_sim_file_writeback(lk_sim_disk *disk, lk_sim_inode *inode, unsigned per_mille,
                           uint64_t *rng);

/* xorshift64* (Vigna 2016); the state is never zero. */
uint64_t lk_sim_random(uint64_t *rng);
static inline uint64_t lk_sim_below(uint64_t *rng, uint64_t n)
{
    return (lk_sim_random(rng) >> 11) % n;
}

#endif
