/* limits: what this machine can do at most, each measured for SECONDS: `limits SECONDS FILE POOL…`; one line `name value` each.
 *
 * FILE is made on the disk to measure, and removed. Each POOL is a file of bytes to compress; its name, up to the first dot, is part of the figure's.
 *
 * Invariants:
 * - Durable appends are 4 KiB each, one after the other: what one client that waits can see at best. "prewritten" files were written
 *   and synced from end to end before.
 * - Where a figure cannot be had on this machine (no O_DIRECT, no SSE 4.2, no liblz4), its line is left out.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __x86_64__
#include <nmmintrin.h>
#endif

enum { BLOCK = 4096, LARGE = 1 << 20, HEADER = 28, REPLY = 16, APPENDS_BYTES = 256 << 20, SEQUENTIAL_BYTES = 1 << 30, BATCH = 16 };

static double seconds;
static const char *path;
static char *bytes; /* LARGE of them, aligned for O_DIRECT */

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "limits: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void move(int end, char *buffer, size_t length, bool out)
{
    while (length) {
        ssize_t moved = out ? write(end, buffer, length) : read(end, buffer, length);
        if (moved <= 0)
            exit(0); /* The other side is done. */
        buffer += moved;
        length -= (size_t)moved;
    }
}

/* A write of 4 KiB with its header there, a reply back, as two processes do it. */
static void ping_pong(const char *name, bool one_core)
{
    static char request[HEADER + BLOCK];
    cpu_set_t before, core;
    int ends[2];
    sched_getaffinity(0, sizeof before, &before);
    CPU_ZERO(&core);
    for (int cpu = 0; cpu < CPU_SETSIZE && !CPU_COUNT(&core); cpu++)
        if (CPU_ISSET(cpu, &before))
            CPU_SET(cpu, &core);
    if (one_core)
        sched_setaffinity(0, sizeof core, &core);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == -1)
        die("socketpair");
    pid_t child = fork();
    if (child == -1)
        die("fork");
    if (child == 0) {
        close(ends[0]);
        for (;;) {
            move(ends[1], request, sizeof request, false);
            move(ends[1], request, REPLY, true);
        }
    }
    close(ends[1]);
    uint64_t trips = 0;
    double began = now(), took;
    while ((took = now() - began) < seconds) {
        move(ends[0], request, sizeof request, true);
        move(ends[0], request, REPLY, false);
        trips++;
    }
    close(ends[0]);
    waitpid(child, NULL, 0);
    sched_setaffinity(0, sizeof before, &before);
    printf("%s %.2f\n", name, took / (double)trips * 1e6);
}

static int make_file(uint64_t prewritten, int flags)
{
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file == -1)
        die(path);
    for (uint64_t at = 0; at < prewritten; at += LARGE)
        if (pwrite(file, bytes, LARGE, (off_t)at) != LARGE)
            die(path);
    if (fsync(file) == -1)
        die(path);
    close(file);
    return open(path, O_RDWR | O_CLOEXEC | flags);
}

static void appends(const char *name, uint64_t prewritten, int flags)
{
    int file = make_file(prewritten, flags);
    if (file == -1)
        return;
    uint64_t count = 0;
    double began = now(), took;
    while ((took = now() - began) < seconds) {
        off_t at = (off_t)(count++ * BLOCK % APPENDS_BYTES);
        if (pwrite(file, bytes, BLOCK, at) != BLOCK || (!(flags & O_DSYNC) && fdatasync(file) == -1))
            die(path);
    }
    close(file);
    printf("%s %.0f\n", name, (double)count / took);
}

static void sequential(const char *name, int flags)
{
    int file = make_file(0, flags);
    if (file == -1)
        return;
    uint64_t written = 0;
    double began = now();
    for (; written < SEQUENTIAL_BYTES && now() - began < 10 * seconds; written += LARGE)
        if (pwrite(file, bytes, LARGE, (off_t)written) != LARGE)
            die(path);
    if (fdatasync(file) == -1)
        die(path);
    double took = now() - began;
    close(file);
    printf("%s %.0f\n", name, (double)written / took / 1048576);
}

typedef int convert(const char *from, char *to, int from_bytes, int to_bytes_max);

static void lz4(const char *pool_path)
{
    void *library = dlopen("liblz4.so.1", RTLD_NOW);
    convert *compress = library ? (convert *)dlsym(library, "LZ4_compress_default") : NULL;
    convert *restore = library ? (convert *)dlsym(library, "LZ4_decompress_safe") : NULL;
    struct stat status;
    int file = open(pool_path, O_RDONLY | O_CLOEXEC);
    if (file == -1 || fstat(file, &status) == -1)
        die(pool_path);
    if (!compress || !restore || status.st_size < BLOCK)
        return;
    const char *pool = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
    if (pool == MAP_FAILED)
        die(pool_path);
    const char *slash = strrchr(pool_path, '/');
    const char *name = slash ? slash + 1 : pool_path;
    int name_length = (int)strcspn(name, ".");
    static char packed[BATCH][2 * BLOCK], unpacked[BLOCK];
    int lengths[BATCH];
    uint64_t blocks = 0, stored = 0, all = (uint64_t)status.st_size / BLOCK;
    double compressing = 0, restoring = 0;
    while (compressing + restoring < seconds) {
        double first = now();
        for (int at = 0; at < BATCH; at++)
            lengths[at] = compress(pool + blocks++ * 7919 % all * BLOCK, packed[at], BLOCK, sizeof packed[at]);
        double second = now();
        for (int at = 0; at < BATCH; at++)
            if (restore(packed[at], unpacked, lengths[at], BLOCK) != BLOCK)
                exit(1);
        compressing += second - first;
        restoring += now() - second;
        for (int at = 0; at < BATCH; at++)
            stored += (uint64_t)(lengths[at] < BLOCK ? lengths[at] : BLOCK);
    }
    double moved = (double)BLOCK * (double)blocks / 1e9;
    printf("lz4_%.*s_compress_gb_s %.2f\n", name_length, name, moved / compressing);
    printf("lz4_%.*s_decompress_gb_s %.2f\n", name_length, name, moved / restoring);
    printf("lz4_%.*s_stored_per_byte %.3f\n", name_length, name, (double)stored / BLOCK / (double)blocks);
    close(file);
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint64_t crc32c(uint64_t crc, const char *from, size_t length)
{
    for (const uint64_t *word = (const uint64_t *)from, *end = word + length / 8; word < end; word++)
        crc = _mm_crc32_u64(crc, *word);
    return crc;
}
#endif

static void checksum(void)
{
#ifdef __x86_64__
    if (!__builtin_cpu_supports("sse4.2"))
        return;
    volatile uint64_t kept;
    uint64_t crc = 0, rounds = 0;
    double began = now(), took;
    for (; (took = now() - began) < seconds; rounds++)
        for (size_t at = 0; at < LARGE; at += BLOCK)
            crc = crc32c(crc, bytes + at, BLOCK);
    kept = crc;
    (void)kept;
    printf("crc32c_one_stream_gb_s %.1f\n", (double)rounds * LARGE / took / 1e9);
#endif
}

int main(int count, char **words)
{
    if (count < 3) {
        fprintf(stderr, "usage: limits SECONDS FILE POOL…\n");
        return 2;
    }
    seconds = atof(words[1]);
    path = words[2];
    if (posix_memalign((void **)&bytes, BLOCK, LARGE))
        die("memory");
    uint64_t random = 1;
    for (size_t at = 0; at < LARGE; at++)
        bytes[at] = (char)((random = random * 6364136223846793005u + 1442695040888963407u) >> 56);
    setvbuf(stdout, NULL, _IONBF, 0); /* A child must not print what its parent has in its buffer. */
    ping_pong("socket_ping_pong_one_core_us", true);
    ping_pong("socket_ping_pong_us", false);
    appends("append_fdatasync_growing_per_s", 0, 0);
    appends("append_fdatasync_prewritten_per_s", APPENDS_BYTES, 0);
    appends("append_dsync_prewritten_per_s", APPENDS_BYTES, O_DSYNC);
    appends("append_direct_dsync_prewritten_per_s", APPENDS_BYTES, O_DSYNC | O_DIRECT);
    sequential("write_fdatasync_mib_s", 0);
    sequential("write_direct_mib_s", O_DIRECT);
    unlink(path);
    checksum();
    for (int at = 3; at < count; at++)
        lz4(words[at]);
    return 0;
}
