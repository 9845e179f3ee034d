/*
 * The addresses of the name registry.example, for a server that is started with this in LD_PRELOAD:
 * those in ADDRESSES, separated by spaces, in their order.
 *
 *     cc -shared -fPIC -o addresses.so addresses.c
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int look_up(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    look_up *real = (look_up *) dlsym(RTLD_NEXT, "getaddrinfo");
    char addresses[256], *address, *rest = addresses;
    struct addrinfo **end = found;

    if (!name || strcmp(name, "registry.example") != 0)
        return real(name, service, hints, found);
    snprintf(addresses, sizeof addresses, "%s", getenv("ADDRESSES"));
    while ((address = strsep(&rest, " ")))
    {
        int error = real(address, service, hints, end);

        if (error)
            return error;
        while (*end)
            end = &(*end)->ai_next;
    }
    return 0;
}
