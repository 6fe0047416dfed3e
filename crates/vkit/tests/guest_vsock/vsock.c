/* What a guest does with its sockets in the test beside: as any program of Linux would. Built static. */

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

static char out[65536], in[65536];

static void fail(const char *what)
{
    printf("=failed %s: %s\n", what, strerror(errno));
    exit(1);
}

static int kind_of(const char *name)
{
    return strcmp(name, "seqpacket") == 0 ? SOCK_SEQPACKET : SOCK_STREAM;
}

/* The test has the same. */
static char byte_at(unsigned seed, unsigned long at)
{
    return (char)(at * 31 + at / 251 + seed * 7);
}

/* Messages of lengths that differ; pieces of a stream as large as they come. */
static size_t length_at(int kind, unsigned long at, unsigned long len)
{
    size_t most = kind == SOCK_STREAM ? sizeof out : 1 + at * 7 % 40000;
    return len - at < most ? len - at : most;
}

/* Sends LEN bytes and expects them back, and then the end: client KIND CID PORT SEED LEN. */
static int client(char **argv)
{
    int kind = kind_of(argv[0]);
    unsigned seed = (unsigned)strtoul(argv[3], NULL, 10);
    unsigned long len = strtoul(argv[4], NULL, 10), sent = 0, got = 0;
    struct sockaddr_vm to = { .svm_family = AF_VSOCK };
    int fd = -1;

    to.svm_cid = (unsigned)strtoul(argv[1], NULL, 10);
    to.svm_port = (unsigned)strtoul(argv[2], NULL, 10);
    /* Whoever it is may not listen yet. */
    for (int tries = 0; tries < 600; tries++) {
        fd = socket(AF_VSOCK, kind, 0);
        if (fd < 0)
            fail("socket");
        if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
            break;
        if (errno != ECONNRESET && errno != ECONNREFUSED && errno != ENODEV)
            fail("connect");
        close(fd);
        fd = -1;
        usleep(100000);
    }
    if (fd < 0)
        fail("connect");
    while (got < len) {
        /* Linux sends the start of a message that it has no room for, and then says that it has sent nothing: messages
           are sent only while there is room for sure. */
        int more = sent < len && (kind == SOCK_STREAM || sent - got < 20000);
        struct pollfd ready = { .fd = fd, .events = (short)(POLLIN | (more ? POLLOUT : 0)) };
        if (poll(&ready, 1, 60000) <= 0)
            fail("poll");
        if (ready.revents & POLLOUT && more) {
            size_t piece = length_at(kind, sent, len);
            for (size_t at = 0; at < piece; at++)
                out[at] = byte_at(seed, sent + at);
            ssize_t done = send(fd, out, piece, MSG_NOSIGNAL | (kind == SOCK_STREAM ? MSG_DONTWAIT : 0));
            if (done < 0 && errno != EAGAIN)
                fail("send");
            if (done > 0)
                sent += (unsigned long)done;
        }
        if (ready.revents & (POLLIN | POLLHUP)) {
            size_t piece = length_at(kind, got, len);
            ssize_t done = recv(fd, in, sizeof in, MSG_DONTWAIT);
            if (done == 0 || (done < 0 && errno != EAGAIN))
                fail("recv");
            if (done > 0 && kind == SOCK_SEQPACKET && (size_t)done != piece) {
                printf("=failed a message of %zd instead of %zu bytes\n", done, piece);
                return 1;
            }
            for (ssize_t at = 0; at < done; at++)
                if (in[at] != byte_at(seed, got + (unsigned long)at)) {
                    printf("=failed byte %lu\n", got + (unsigned long)at);
                    return 1;
                }
            if (done > 0)
                got += (unsigned long)done;
        }
    }
    if (shutdown(fd, SHUT_WR) != 0)
        fail("shutdown");
    if (recv(fd, in, sizeof in, 0) != 0)
        fail("the end");
    printf("=client %s %s %lu\n", argv[0], argv[1], got);
    return 0;
}

/* Sends back what comes, to so many connections one after another: server KIND PORT COUNT. */
static int server(char **argv)
{
    struct sockaddr_vm at = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY };
    int fd = socket(AF_VSOCK, kind_of(argv[0]), 0);

    at.svm_port = (unsigned)strtoul(argv[1], NULL, 10);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 8) != 0)
        fail("listen");
    for (unsigned long count = strtoul(argv[2], NULL, 10); count > 0; count--) {
        struct sockaddr_vm from;
        socklen_t size = sizeof from;
        unsigned long echoed = 0;
        int with = accept(fd, (struct sockaddr *)&from, &size);
        if (with < 0)
            fail("accept");
        for (;;) {
            ssize_t got = recv(with, in, sizeof in, 0);
            if (got < 0)
                fail("recv");
            if (got == 0)
                break;
            for (ssize_t done = 0; done < got;) {
                ssize_t sent = send(with, in + done, (size_t)(got - done), MSG_NOSIGNAL);
                if (sent < 0)
                    fail("send");
                done += sent;
            }
            echoed += (unsigned long)got;
        }
        close(with);
        printf("=server %s %u %lu\n", argv[0], from.svm_cid, echoed);
    }
    return 0;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 7 && strcmp(argv[1], "client") == 0)
        return client(argv + 2);
    if (argc == 5 && strcmp(argv[1], "server") == 0)
        return server(argv + 2);
    return 2;
}
