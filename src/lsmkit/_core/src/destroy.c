/* destroy.c: see destroy.h.
 *
 * Always    what CURRENT's checksum or the content of some file does not prove to be a store of
 *           lsmkit is left alone, because other engines name their files alike; the file that may
 *           prove it goes last.
 */
#include "destroy.h"

#include <errno.h>
#include <string.h>

#include "readers.h"

lk_status lk_files_remove(lk_env *env, const char *dir, const lk_names *names, lk_file_kind kind,
                          lk_error *err)
{
    lk_status st = LK_OK;
    for (size_t i = 0; i < names->count; i++) {
        char path[LK_PATH_MAX];
        if (lk_file_kind_of(names->names[i], NULL) != kind) continue;
        LK_TRY(lk_path_join(dir, names->names[i], path, err));
        st = lk_env_unlink(env, path, err);
        if (st == LK_NOT_FOUND) st = LK_OK;
        if (st != LK_OK) break;
    }
done:
    return st;
}

/* Whether there is a store, or what an interrupted removal has left of one. */
static lk_status is_store(lk_env *env, const char *dir, const lk_names *names, bool *out,
                          lk_error *err)
{
    *out = false;
    for (size_t i = 0; i < names->count && !*out; i++) {
        lk_status st = lk_file_is_ours(env, dir, names->names[i], out, err);
        /* An owner that is at work may have removed it; CURRENT it never removes. */
        if (st != LK_OK && st != LK_NOT_FOUND) return st;
    }
    return LK_OK;
}

/* What a repair has put aside. */
static lk_status lost_remove(lk_env *env, const char *dir, lk_error *err)
{
    static const lk_file_kind kinds[] = {LK_FILE_CURRENT, LK_FILE_MANIFEST, LK_FILE_TABLE,
                                         LK_FILE_BLOB, LK_FILE_LOG};
    lk_status st = LK_OK;
    lk_names names = {0};
    char lost[LK_PATH_MAX];
    bool exists, is_dir;
    LK_TRY(lk_path_join(dir, LK_LOST_DIR, lost, err));
    LK_TRY(lk_env_exists(env, lost, &exists, &is_dir, err));
    if (!exists || !is_dir) goto done;
    LK_TRY(lk_env_list(env, lost, &names, err));
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        LK_TRY(lk_files_remove(env, lost, &names, kinds[k], err));
    }
    (void)lk_env_rmdir(env, lost, NULL); /* what is not ours stays, and so does the directory */
done:
    lk_names_free(&names);
    return st;
}

static lk_status files_remove(lk_env *env, const char *dir, const lk_names *names, lk_error *err)
{
    /* Manifests last: each proves, also alone, that the rest of the directory is a store's. */
    static const lk_file_kind kinds[] = {LK_FILE_LOG,          LK_FILE_TABLE, LK_FILE_BLOB,
                                         LK_FILE_CURRENT_NEXT, LK_FILE_PULSE, LK_FILE_MANIFEST};
    lk_status st = LK_OK;
    LK_TRY(lk_files_remove(env, dir, names, LK_FILE_CURRENT, err));
    LK_TRY(lk_env_sync_dir(env, dir, err));
    LK_TRY(lost_remove(env, dir, err));
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        LK_TRY(lk_files_remove(env, dir, names, kinds[k], err));
    }
    LK_TRY(lk_files_remove(env, dir, names, LK_FILE_LOCK, err));
    LK_TRY(lk_env_sync_dir(env, dir, err));
done:
    return st;
}

lk_status lk_store_destroy(lk_env *env, const char *dir, lk_error *err)
{
    lk_status st = LK_OK;
    lk_names names = {0};
    lk_lock_file *lock = NULL;
    char parent[LK_PATH_MAX];
    bool exists, is_dir = false, ours = false;
    LK_TRY(lk_env_exists(env, dir, &exists, &is_dir, err));
    if (exists && is_dir) {
        LK_TRY(lk_env_list(env, dir, &names, err));
        LK_TRY(is_store(env, dir, &names, &ours, err));
    }
    if (!ours) {
        st = lk_fail(err, LK_NOT_FOUND, 0, dir, 0, 0, 0, "%s: there is no store", dir);
        goto done;
    }
    LK_TRY(lk_dir_lock(env, dir, &lock, err));
    LK_TRY(lk_readers_end(env, dir, err));
    lk_names_free(&names);
    LK_TRY(lk_env_list(env, dir, &names, err)); /* the owner may have made others meanwhile */
    LK_TRY(files_remove(env, dir, &names, err));
    lk_error why;
    st = lk_env_rmdir(env, dir, &why);
    if (st == LK_IO && (why.sys_errno == ENOTEMPTY || why.sys_errno == EEXIST)) {
        st = LK_OK; /* files of others */
    } else if (st == LK_OK) {
        lk_path_parent(dir, parent);
        st = lk_env_sync_dir(env, parent, err);
    } else if (err != NULL) {
        *err = why;
    }
done:
    lk_env_unlock(lock);
    lk_names_free(&names);
    return st;
}
