/*
 * What the kernel says of its clock, for a server that is started with this in LD_PRELOAD.
 *
 * The file named by CLOCK_ERROR holds how wrong the clock can be, in microseconds; a time daemon
 * seems to keep it. A negative number: the kernel may not be asked, as in some containers.
 *
 *     cc -shared -fPIC -o kernel_clock.so kernel_clock.c
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timex.h>

int adjtimex(struct timex *clock)
{
    FILE *file = fopen(getenv("CLOCK_ERROR"), "r");

    memset(clock, 0, sizeof *clock);
    if (!file || fscanf(file, "%ld", &clock->maxerror) != 1)
        abort();
    fclose(file);
    if (clock->maxerror < 0) {
        errno = EPERM;
        return -1;
    }
    return TIME_OK;
}
