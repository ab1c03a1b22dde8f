/* sim_disk.c: inodes, names, the log of changed names, and the ends of a machine.
 *
 * Always    the durable names plus the whole log are the present names; a record is applied whole;
 *           records that touch one directory are applied in their order.
 */
#include "sim_disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "array.h"
#include "check.h"

static void must(bool done)
{
    if (!done) abort();
}

uint64_t lk_sim_random(uint64_t *rng)
{
    uint64_t x = *rng;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *rng = x;
    return x * UINT64_C(0x2545F4914F6CDD1D);
}

/* ---- tables of names ---- */

static lk_sim_inode *entries_find(const lk_sim_entries *entries, const char *name)
{
    for (size_t i = 0; i < entries->count; i++) {
        if (strcmp(entries->items[i].name, name) == 0) return entries->items[i].inode;
    }
    return NULL;
}

static bool entries_reserve(lk_sim_entries *entries, size_t count)
{
    if (count <= entries->capacity) return true;
    size_t capacity = 2 * count;
    lk_sim_entry *grown = realloc(entries->items, capacity * sizeof *grown);
    if (grown == NULL) return false;
    entries->items = grown;
    entries->capacity = capacity;
    return true;
}

/* Gives `name` to `inode`, or, where that is NULL, to nothing. False without memory. */
static bool entries_set(lk_sim_disk *disk, lk_sim_entries *entries, const char *name,
                        lk_sim_inode *inode)
{
    for (size_t i = 0; i < entries->count; i++) {
        lk_sim_entry *entry = &entries->items[i];
        if (strcmp(entry->name, name) != 0) continue;
        lk_sim_inode *before = entry->inode;
        if (inode != NULL) {
            entry->inode = lk_sim_inode_ref(inode);
        } else {
            free(entry->name);
            *entry = entries->items[--entries->count];
        }
        lk_sim_inode_unref(disk, before);
        return true;
    }
    if (inode == NULL) return true;
    char *copy = strdup(name);
    if (copy == NULL || !entries_reserve(entries, entries->count + 1)) {
        free(copy);
        return false;
    }
    entries->items[entries->count++] = (lk_sim_entry){copy, lk_sim_inode_ref(inode)};
    return true;
}

static void entries_clear(lk_sim_disk *disk, lk_sim_entries *entries)
{
    /* Taken out first: freeing an inode must not meet a table that is half cleared. */
    lk_sim_entries gone = *entries;
    *entries = (lk_sim_entries){0};
    for (size_t i = 0; i < gone.count; i++) {
        free(gone.items[i].name);
        lk_sim_inode_unref(disk, gone.items[i].inode);
    }
    free(gone.items);
}

/* ---- inodes ---- */

static lk_sim_inode *inode_new(lk_sim_disk *disk, bool is_dir)
{
    lk_sim_inode *inode = calloc(1, sizeof *inode);
    if (inode == NULL) return NULL;
    inode->refs = 1;
    inode->is_dir = is_dir;
    inode->next = disk->inodes;
    inode->link = &disk->inodes;
    if (inode->next != NULL) inode->next->link = &inode->next;
    disk->inodes = inode;
    return inode;
}

lk_sim_inode *lk_sim_inode_ref(lk_sim_inode *inode)
{
    inode->refs++;
    return inode;
}

lk_sim_inode *lk_sim_inode_use(lk_sim_disk *disk, lk_sim_inode *inode)
{
    inode->uses++;
    lk_sim_inode_recount(disk, inode);
    return lk_sim_inode_ref(inode);
}

void lk_sim_inode_unuse(lk_sim_disk *disk, lk_sim_inode *inode)
{
    LK_ASSERT(inode->uses > 0);
    inode->uses--;
    lk_sim_inode_recount(disk, inode);
    lk_sim_inode_unref(disk, inode);
}

void lk_sim_inode_unref(lk_sim_disk *disk, lk_sim_inode *inode)
{
    if (inode == NULL) return;
    LK_ASSERT(inode->refs > 0);
    if (--inode->refs > 0) return;
    *inode->link = inode->next;
    if (inode->next != NULL) inode->next->link = inode->link;
    lk_sim_file_clear(disk, inode);
    entries_clear(disk, &inode->names);
    entries_clear(disk, &inode->durable_names);
    free(inode);
}

/* ---- the log ---- */

static void record_free(lk_sim_disk *disk, lk_sim_record *record)
{
    for (size_t i = 0; i < record->count; i++) {
        lk_sim_inode_unref(disk, record->changes[i].dir);
        lk_sim_inode_unref(disk, record->changes[i].inode);
        free(record->changes[i].name);
    }
    record->count = 0;
}

static bool record_add(lk_sim_record *record, lk_sim_inode *dir, const char *name,
                       lk_sim_inode *inode)
{
    char *copy = strdup(name);
    if (copy == NULL) return false;
    if (inode != NULL) (void)lk_sim_inode_ref(inode);
    record->changes[record->count++] = (lk_sim_change){lk_sim_inode_ref(dir), copy, inode};
    return true;
}

/* Changes the present names as `record` says and puts it into the log, which takes it over. */
static int commit(lk_sim_disk *disk, lk_sim_record *record)
{
    if (lk_array_grow(&disk->log, disk->log_count, &disk->log_capacity, sizeof *disk->log, NULL) !=
        LK_OK) {
        return ENOMEM;
    }
    for (size_t i = 0; i < record->count; i++) {
        lk_sim_change *change = &record->changes[i];
        lk_sim_inode *before = entries_find(&change->dir->names, change->name);
        if (change->inode != NULL) {
            change->inode->links++;
            lk_sim_inode_recount(disk, change->inode);
        }
        if (before != NULL) {
            before->links--;
            lk_sim_inode_recount(disk, before);
        }
        must(entries_set(disk, &change->dir->names, change->name, change->inode));
    }
    disk->log[disk->log_count++] = *record;
    record->count = 0;
    return 0;
}

static void record_make_durable(lk_sim_disk *disk, lk_sim_record *record)
{
    for (size_t i = 0; i < record->count; i++) {
        lk_sim_change *change = &record->changes[i];
        must(entries_set(disk, &change->dir->durable_names, change->name, change->inode));
    }
    record_free(disk, record);
}

static bool touches(const lk_sim_record *record, lk_sim_inode *const *dirs, size_t count)
{
    for (size_t i = 0; i < record->count; i++) {
        for (size_t j = 0; j < count; j++) {
            if (record->changes[i].dir == dirs[j]) return true;
        }
    }
    return false;
}

/* The directories whose order hangs together with that of `dir`: a rename from one directory to
 * another ties the two. `dirs` has room for two a record, and one. */
static size_t tied_dirs(const lk_sim_disk *disk, lk_sim_inode *dir, lk_sim_inode **dirs)
{
    size_t count = 1, before = 0;
    dirs[0] = dir;
    while (count != before) {
        before = count;
        for (size_t r = 0; r < disk->log_count; r++) {
            const lk_sim_record *record = &disk->log[r];
            if (record->count < 2 || !touches(record, dirs, count)) continue;
            for (size_t i = 0; i < record->count; i++) {
                bool known = false;
                for (size_t j = 0; j < count; j++) known |= dirs[j] == record->changes[i].dir;
                if (!known) dirs[count++] = record->changes[i].dir;
            }
        }
    }
    return count;
}

int lk_sim_disk_sync_dir(lk_sim_disk *disk, const char *path)
{
    lk_sim_inode *dir = lk_sim_disk_find(disk, path);
    if (dir == NULL) return ENOENT;
    if (!dir->is_dir) return ENOTDIR;
    lk_sim_inode **dirs = malloc((2 * disk->log_count + 1) * sizeof *dirs);
    if (dirs == NULL) return ENOMEM;
    size_t count = tied_dirs(disk, dir, dirs);
    size_t kept = 0;
    for (size_t r = 0; r < disk->log_count; r++) {
        lk_sim_record record = disk->log[r];
        if (touches(&record, dirs, count)) {
            record_make_durable(disk, &record);
        } else {
            disk->log[kept++] = record;
        }
    }
    disk->log_count = kept;
    free(dirs);
    return 0;
}

/* ---- paths ---- */

int lk_sim_disk_resolve(lk_sim_disk *disk, const char *path, lk_sim_inode **out_dir, char *out_name)
{
    lk_sim_inode *at = disk->root;
    *out_dir = at;
    out_name[0] = '\0';
    for (;;) {
        while (*path == '/') path++;
        size_t n = strcspn(path, "/");
        if (n == 0) return 0;
        if (n > LK_SIM_NAME_BYTES_MAX) return ENAMETOOLONG;
        if (n == 2 && memcmp(path, "..", 2) == 0) return EINVAL;
        if (n != 1 || *path != '.') {
            /* The name before this one must be a directory. */
            if (out_name[0] != '\0') at = entries_find(&at->names, out_name);
            if (at == NULL) return ENOENT;
            if (!at->is_dir) return ENOTDIR;
            *out_dir = at;
            memcpy(out_name, path, n);
            out_name[n] = '\0';
        }
        path += n;
    }
}

lk_sim_inode *lk_sim_disk_find(lk_sim_disk *disk, const char *path)
{
    char name[LK_SIM_NAME_BYTES_MAX + 1];
    lk_sim_inode *dir = NULL;
    if (lk_sim_disk_resolve(disk, path, &dir, name) != 0) return NULL;
    return name[0] == '\0' ? dir : entries_find(&dir->names, name);
}

int lk_sim_disk_make(lk_sim_disk *disk, const char *path, bool is_dir, lk_sim_inode **out)
{
    char name[LK_SIM_NAME_BYTES_MAX + 1];
    lk_sim_inode *dir = NULL;
    lk_sim_record record = {.count = 0};
    int why = lk_sim_disk_resolve(disk, path, &dir, name);
    if (why != 0) return why;
    if (name[0] == '\0' || entries_find(&dir->names, name) != NULL) return EEXIST;
    lk_sim_inode *inode = inode_new(disk, is_dir);
    if (inode == NULL) return ENOMEM;
    why = record_add(&record, dir, name, inode) ? commit(disk, &record) : ENOMEM;
    record_free(disk, &record);
    if (why == 0 && out != NULL) *out = inode;
    lk_sim_inode_unref(disk, inode); /* its name holds it */
    return why;
}

int lk_sim_disk_remove(lk_sim_disk *disk, const char *path, bool is_dir)
{
    char name[LK_SIM_NAME_BYTES_MAX + 1];
    lk_sim_inode *dir = NULL;
    lk_sim_record record = {.count = 0};
    int why = lk_sim_disk_resolve(disk, path, &dir, name);
    if (why != 0) return why;
    if (name[0] == '\0') return EBUSY;
    const lk_sim_inode *inode = entries_find(&dir->names, name);
    if (inode == NULL) return ENOENT;
    if (inode->is_dir && !is_dir) return EISDIR;
    if (!inode->is_dir && is_dir) return ENOTDIR;
    if (inode->names.count > 0) return ENOTEMPTY;
    why = record_add(&record, dir, name, NULL) ? commit(disk, &record) : ENOMEM;
    record_free(disk, &record);
    return why;
}

int lk_sim_disk_link(lk_sim_disk *disk, const char *from, const char *to)
{
    char name[LK_SIM_NAME_BYTES_MAX + 1];
    lk_sim_inode *dir = NULL;
    lk_sim_record record = {.count = 0};
    lk_sim_inode *inode = lk_sim_disk_find(disk, from);
    if (inode == NULL) return ENOENT;
    if (inode->is_dir) return EPERM;
    int why = lk_sim_disk_resolve(disk, to, &dir, name);
    if (why != 0) return why;
    if (name[0] == '\0' || entries_find(&dir->names, name) != NULL) return EEXIST;
    why = record_add(&record, dir, name, inode) ? commit(disk, &record) : ENOMEM;
    record_free(disk, &record);
    return why;
}

/* Whether `inode` is `dir` or somewhere below it. */
static bool is_within(const lk_sim_inode *dir, const lk_sim_inode *inode)
{
    if (dir == inode) return true;
    for (size_t i = 0; i < dir->names.count; i++) {
        const lk_sim_inode *child = dir->names.items[i].inode;
        if (child->is_dir && is_within(child, inode)) return true;
    }
    return false;
}

int lk_sim_disk_rename(lk_sim_disk *disk, const char *from, const char *to)
{
    char from_name[LK_SIM_NAME_BYTES_MAX + 1], to_name[LK_SIM_NAME_BYTES_MAX + 1];
    lk_sim_inode *from_dir = NULL, *to_dir = NULL;
    lk_sim_record record = {.count = 0};
    int why = lk_sim_disk_resolve(disk, from, &from_dir, from_name);
    if (why == 0) why = lk_sim_disk_resolve(disk, to, &to_dir, to_name);
    if (why != 0) return why;
    if (from_name[0] == '\0' || to_name[0] == '\0') return EBUSY;
    lk_sim_inode *inode = entries_find(&from_dir->names, from_name);
    const lk_sim_inode *target = entries_find(&to_dir->names, to_name);
    if (inode == NULL) return ENOENT;
    if (inode == target) return 0; /* two names of one file: POSIX leaves both */
    if (inode->is_dir && is_within(inode, to_dir)) return EINVAL;
    if (target != NULL) {
        if (target->is_dir && !inode->is_dir) return EISDIR;
        if (!target->is_dir && inode->is_dir) return ENOTDIR;
        if (target->names.count > 0) return ENOTEMPTY;
    }
    bool fits = record_add(&record, from_dir, from_name, NULL) &&
                record_add(&record, to_dir, to_name, inode);
    why = fits ? commit(disk, &record) : ENOMEM;
    record_free(disk, &record);
    return why;
}

/* ---- the whole machine ---- */

bool lk_sim_disk_init(lk_sim_disk *disk)
{
    *disk = (lk_sim_disk){.pages_max = UINT64_MAX};
    disk->root = inode_new(disk, true);
    return disk->root != NULL;
}

static void log_clear(lk_sim_disk *disk)
{
    for (size_t r = 0; r < disk->log_count; r++) record_free(disk, &disk->log[r]);
    disk->log_count = 0;
}

void lk_sim_disk_deinit(lk_sim_disk *disk)
{
    log_clear(disk);
    free(disk->log);
    lk_sim_disk_free_mappings(disk);
    /* Names by hand: present and durable ones together can hold two directories in a circle. */
    for (lk_sim_inode *inode = disk->inodes; inode != NULL;) {
        if (inode->names.count + inode->durable_names.count == 0) {
            inode = inode->next;
            continue;
        }
        (void)lk_sim_inode_ref(inode);
        entries_clear(disk, &inode->names);
        entries_clear(disk, &inode->durable_names);
        lk_sim_inode_unref(disk, inode);
        inode = disk->inodes;
    }
    lk_sim_inode_unref(disk, disk->root);
    LK_ASSERT(disk->inodes == NULL && disk->used_pages == 0);
}

/* Gives `inode` the names that the durable ones are, and so on downwards. */
static void settle_names(lk_sim_disk *disk, lk_sim_inode *inode)
{
    if (!inode->is_dir) return;
    entries_clear(disk, &inode->names);
    for (size_t i = 0; i < inode->durable_names.count; i++) {
        const lk_sim_entry *entry = &inode->durable_names.items[i];
        must(entries_set(disk, &inode->names, entry->name, entry->inode));
        entry->inode->links++;
        settle_names(disk, entry->inode);
    }
}

void lk_sim_disk_power_cut(lk_sim_disk *disk, lk_sim_cut mode, uint64_t *rng)
{
    size_t kept = 0;
    if (mode == LK_SIM_KEEP_ALL) kept = disk->log_count;
    if (mode == LK_SIM_RANDOM) kept = (size_t)lk_sim_below(rng, disk->log_count + 1);
    for (size_t r = 0; r < kept; r++) record_make_durable(disk, &disk->log[r]);
    log_clear(disk);
    for (lk_sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        inode->links = 0;
        if (!inode->is_dir) lk_sim_file_settle(disk, inode, mode, rng);
    }
    settle_names(disk, disk->root);
    for (lk_sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        lk_sim_inode_recount(disk, inode);
    }
}

void lk_sim_disk_end_process(lk_sim_disk *disk)
{
    lk_sim_disk_cut_mappings(disk);
    for (lk_sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        inode->uses = 0;
        lk_sim_inode_recount(disk, inode);
    }
}

void lk_sim_disk_evict(lk_sim_disk *disk)
{
    for (lk_sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        if (!inode->is_dir) lk_sim_file_evict(disk, inode);
    }
}

void lk_sim_disk_writeback(lk_sim_disk *disk, unsigned per_mille, uint64_t *rng)
{
    for (lk_sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        if (!inode->is_dir) lk_sim_file_writeback(disk, inode, per_mille, rng);
    }
}

/* ---- clones ---- */

static bool clone_entries(lk_sim_disk *out, const lk_sim_entries *from, lk_sim_entries *to)
{
    for (size_t i = 0; i < from->count; i++) {
        if (!entries_set(out, to, from->items[i].name, from->items[i].inode->twin)) return false;
    }
    return true;
}

static bool clone_inode(lk_sim_disk *out, const lk_sim_inode *inode)
{
    lk_sim_inode *twin = inode->twin;
    bool fits = clone_entries(out, &inode->names, &twin->names) &&
                clone_entries(out, &inode->durable_names, &twin->durable_names) &&
                lk_sim_image_clone(&inode->now, &twin->now) &&
                lk_sim_image_clone(&inode->clean, &twin->clean) &&
                lk_sim_image_clone(&inode->durable, &twin->durable);
    twin->links = inode->links;
    lk_sim_inode_recount(out, twin);
    return fits;
}

static bool clone_log(const lk_sim_disk *disk, lk_sim_disk *out)
{
    if (disk->log_count == 0) return true;
    out->log = calloc(disk->log_count, sizeof *out->log);
    if (out->log == NULL) return false;
    out->log_capacity = disk->log_count;
    for (size_t r = 0; r < disk->log_count; r++) {
        lk_sim_record *record = &out->log[out->log_count++];
        for (size_t i = 0; i < disk->log[r].count; i++) {
            const lk_sim_change *change = &disk->log[r].changes[i];
            lk_sim_inode *inode = change->inode == NULL ? NULL : change->inode->twin;
            if (!record_add(record, change->dir->twin, change->name, inode)) return false;
        }
    }
    return true;
}

bool lk_sim_disk_clone(lk_sim_disk *disk, lk_sim_disk *out)
{
    bool fits = lk_sim_disk_init(out);
    if (!fits) return false;
    for (lk_sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        fits = fits && (inode->is_dir || lk_sim_file_harvest(disk, inode) == 0);
        inode->twin = inode == disk->root ? lk_sim_inode_ref(out->root) : NULL;
        if (fits && inode->twin == NULL) inode->twin = inode_new(out, inode->is_dir);
        fits = fits && inode->twin != NULL;
    }
    out->pages_max = disk->pages_max;
    for (lk_sim_inode *inode = disk->inodes; fits && inode != NULL; inode = inode->next) {
        fits = clone_inode(out, inode);
    }
    fits = fits && clone_log(disk, out);
    /* Names hold the twins from here on; those without names, held open in the original, go. */
    for (lk_sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        lk_sim_inode_unref(out, inode->twin);
        inode->twin = NULL;
    }
    if (!fits) lk_sim_disk_deinit(out);
    return fits;
}
