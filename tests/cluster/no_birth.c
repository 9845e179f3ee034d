/* A file system that does not say when a file was made, as NFS. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/stat.h>

int statx(int directory, const char *restrict path, int flags, unsigned int mask, struct statx *restrict found)
{
    int (*next)(int, const char *restrict, int, unsigned int, struct statx *restrict) = dlsym(RTLD_NEXT, "statx");
    int result = next(directory, path, flags, mask, found);
    if (result == 0)
        found->stx_mask &= ~STATX_BTIME;
    return result;
}
