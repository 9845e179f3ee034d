/*
 * Waits that go past libfaketime; preloaded before it (see FakeClock in throwaway.py).
 *
 * libfaketime wraps the functions below, and until they return the process sees the real
 * time. PostgreSQL up to 15 serves its signals while the postmaster is inside select(), and
 * starts processes there, the keeper among them: for these the clock would never be moved.
 * The functions are made of system calls that exist on every architecture.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int select(int n, fd_set *readable, fd_set *writable, fd_set *other, struct timeval *timeout)
{
    struct timespec time;

    if (timeout) {
        time.tv_sec = timeout->tv_sec;
        time.tv_nsec = timeout->tv_usec * 1000;
    }
    return syscall(SYS_pselect6, n, readable, writable, other, timeout ? &time : NULL, NULL);
}

int poll(struct pollfd *files, nfds_t n, int timeout)
{
    struct timespec time = {timeout / 1000, timeout % 1000 * 1000000L};

    return syscall(SYS_ppoll, files, n, timeout < 0 ? NULL : &time, NULL, 0);
}

int epoll_wait(int epoll, struct epoll_event *events, int n, int timeout)
{
    return syscall(SYS_epoll_pwait, epoll, events, n, timeout, NULL, 0);
}

/* Unlike the others it returns its error. */
int clock_nanosleep(clockid_t clock, int flags, const struct timespec *time, struct timespec *left)
{
    return syscall(SYS_clock_nanosleep, clock, flags, time, left) ? errno : 0;
}

int nanosleep(const struct timespec *time, struct timespec *left)
{
    return syscall(SYS_clock_nanosleep, CLOCK_REALTIME, 0, time, left);
}
