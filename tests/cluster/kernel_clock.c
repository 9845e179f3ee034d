/*
 * What the kernel says of its clock, for a server that is started with this in LD_PRELOAD.
 *
 * The file named by CLOCK_ERROR holds how wrong the clock can be, in microseconds; a time daemon
 * seems to keep it.
 *
 *     cc -shared -fPIC -o kernel_clock.so kernel_clock.c
 */

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
    return TIME_OK;
}
