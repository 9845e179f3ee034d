/*
 * A disk that is full, for a server that is started with this in LD_PRELOAD.
 *
 * While the file named by FULL_DISK exists, a file of a relation (base/...) cannot
 * grow: the server gets ENOSPC, as from a file system without a free block. What
 * has its blocks can be rewritten, and WAL, which would have a disk of its own, goes
 * on; without it PostgreSQL ends with PANIC, whatever an extension does.
 *
 *     cc -shared -fPIC -o full_disk.so full_disk.c
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* Whether this file may not grow to `end` bytes now. */
static int full(int fd, off64_t end)
{
    int saved = errno;
    const char *flag = getenv("FULL_DISK");
    char link[32], path[PATH_MAX];
    struct stat64 file;
    int answer = 0;

    if (flag && access(flag, F_OK) == 0 && fstat64(fd, &file) == 0 && end > file.st_size)
    {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length > 0)
        {
            path[length] = '\0';
            answer = strstr(path, "/base/") != NULL;
        }
    }
    errno = saved;
    return answer;
}

static off64_t total(const struct iovec *parts, int count)
{
    off64_t sum = 0;
    for (int i = 0; i < count; i++)
        sum += parts[i].iov_len;
    return sum;
}

#define REAL(name) static __typeof__(name) *real; if (!real) *(void **) &real = dlsym(RTLD_NEXT, #name)
#define REFUSE do { errno = ENOSPC; return -1; } while (0)

/* Programs call one name or the other, depending on how they were compiled. */
#define PWRITE(name, offset_type) \
    ssize_t name(int fd, const void *data, size_t size, offset_type offset) \
    { \
        REAL(name); \
        if (full(fd, offset + size)) \
            REFUSE; \
        return real(fd, data, size, offset); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define PWRITEV(name, offset_type) \
    ssize_t name(int fd, const struct iovec *parts, int count, offset_type offset) \
    { \
        REAL(name); \
        if (full(fd, offset + total(parts, count))) \
            REFUSE; \
        return real(fd, parts, count, offset); \
    }
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)

#define FALLOCATE(name, offset_type) \
    int name(int fd, offset_type offset, offset_type size) \
    { \
        REAL(name); \
        /* This one returns its error. */ \
        return full(fd, offset + size) ? ENOSPC : real(fd, offset, size); \
    }
int posix_fallocate(int, off_t, off_t);
int posix_fallocate64(int, off64_t, off64_t);
FALLOCATE(posix_fallocate, off_t)
FALLOCATE(posix_fallocate64, off64_t)
