/*
 * floor - a policy server that answers "dunno" without looking: one thread, epoll, nothing else.
 *
 * What this machine's kernel allows anyone who speaks the protocol one request at a time. It counts the ends of
 * requests in what it reads, and writes as many answers.
 *
 *     cc -O2 -o floor floor.c
 *     ./floor PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_BYTES 65536
#define CONNECTIONS 16384
#define EVENTS 1024

static const char answer[] = "action=dunno\n\n";
static char ended_in_newline[CONNECTIONS]; /* by descriptor: the last byte that was read */
static char answers[READ_BYTES / 2 * (sizeof answer - 1)];

static void die(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void serve(int fd)
{
    static char data[READ_BYTES];
    ssize_t got = recv(fd, data, sizeof data, MSG_DONTWAIT);
    size_t requests = 0;
    const char *end = data + (got > 0 ? got : 0), *at = data;
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        close(fd);
        return;
    }
    if (ended_in_newline[fd] && *at == '\n') {
        requests++;
        at++;
    }
    while ((at = memmem(at, (size_t)(end - at), "\n\n", 2))) {
        requests++;
        at += 2;
    }
    ended_in_newline[fd] = end[-1] == '\n';
    if (requests && send(fd, answers, requests * (sizeof answer - 1), MSG_NOSIGNAL) < 0)
        close(fd);
}

int main(int argc, char **argv)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event events[EVENTS], e = {.events = EPOLLIN};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), poll = epoll_create1(EPOLL_CLOEXEC), one = 1;
    if (argc != 2) {
        fputs("usage: floor PORT\n", stderr);
        return 2;
    }
    for (size_t i = 0; i < sizeof answers; i++)
        answers[i] = answer[i % (sizeof answer - 1)];
    at.sin_port = htons((uint16_t)atoi(argv[1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, SOMAXCONN))
        die(argv[1]);
    e.data.fd = listener;
    if (epoll_ctl(poll, EPOLL_CTL_ADD, listener, &e))
        die("epoll_ctl");
    for (;;) {
        int n = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                serve(fd);
                continue;
            }
            fd = accept4(listener, 0, 0, SOCK_CLOEXEC);
            if (fd < 0)
                continue;
            if (fd >= CONNECTIONS) {
                close(fd);
                continue;
            }
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            ended_in_newline[fd] = 0;
            e.events = EPOLLIN;
            e.data.fd = fd;
            if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &e))
                die("epoll_ctl");
        }
    }
}
