/* Writes that fail: preloaded into a process, it lets some of its calls on files of one name fail with one error.
 *
 *     cc -shared -fPIC -O1 -o io_faults.so io_faults.c -ldl
 *
 * io_faults(after, count, error, name): of the calls on files whose path holds `name`, `after` succeed from now on, the
 * next `count` fail with `error` (ENOSPC, EIO), and all others succeed again. io_faults_failed(): how many failed since
 * it was called last.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long after_calls = -1, count_calls = 0, failed_calls = 0;
static int error_number = 0;
static char file_name[256];

void io_faults(long after, long count, int error, const char *name) {
    pthread_mutex_lock(&lock);
    after_calls = after, count_calls = count, error_number = error;
    snprintf(file_name, sizeof file_name, "%s", name);
    pthread_mutex_unlock(&lock);
}

long io_faults_failed(void) { long found = failed_calls; failed_calls = 0; return found; }

static int fails(int file) {
    char link[64], path[4096];
    int found = 0;
    if (after_calls < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    if (!strstr(path, file_name)) return 0;
    pthread_mutex_lock(&lock);
    if (after_calls > 0) after_calls--;
    else if (after_calls == 0 && count_calls > 0) count_calls--, failed_calls++, found = error_number;
    pthread_mutex_unlock(&lock);
    errno = found;
    return found;
}

#define NEXT(name) static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    NEXT(pwrite);
    return fails(file) ? -1 : next(file, data, size, at);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    NEXT(pwrite64);
    return fails(file) ? -1 : next(file, data, size, at);
}
ssize_t write(int file, const void *data, size_t size) {
    NEXT(write);
    return fails(file) ? -1 : next(file, data, size);
}
int fdatasync(int file) {
    NEXT(fdatasync);
    return fails(file) ? -1 : next(file);
}
int fsync(int file) {
    NEXT(fsync);
    return fails(file) ? -1 : next(file);
}
