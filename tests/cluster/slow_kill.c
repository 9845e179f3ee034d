/* The postmaster sends each signal twice: to the process, and to its group. Here, a while lies between the two. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

int kill(pid_t pid, int number)
{
    int (*next)(pid_t, int) = dlsym(RTLD_NEXT, "kill");
    if (pid < -1 && number == SIGTERM) {
        struct timespec now, pause = {0, 0};
        clock_gettime(CLOCK_MONOTONIC, &now);
        /* 0.05 to 1 ms. */
        pause.tv_nsec = 50000 + now.tv_nsec / 7 % 950000;
        nanosleep(&pause, NULL);
    }
    return next(pid, number);
}
