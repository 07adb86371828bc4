// A fast fake of vLLM's /v1/chat/completions: one thread, epoll, loopback only.
//
//   sim PORT...
//
// A marker in the first user message steers it, and one in the last message shows that the whole request came through:
//   req:<16 hex nonce> n<deltas> d<ms between deltas, 0 = burst> k<of these, tool-call deltas>. … end:<same nonce>
// Whether it streams is the request's own "stream": true. Every answer carries ans:<nonce>; each delta carries the
// CLOCK_MONOTONIC time in microseconds at which it was made (" t" and 16 digits).
// Requests without whole markers get a 400. GET /_stats counts connections per port; GET /_kill ends its
// streams.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

typedef struct port {
  int fd;
  long open, streaming, requests, aborted, bad;
} port;
typedef struct conn {
  int fd, stage, left, tools, streaming, closing, want_out, heap_at;
  port *p;
  char *in, *out;
  size_t in_len, in_cap, out_len, out_at, out_cap;
  int total, tools_total;
  int64_t delay, next;
  char nonce[17];
  struct conn *newer, *older; // all connections, for /_kill
} conn;

static int ep;
static port ports[64];
static int nports;
static conn *all;
static int64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

// ---- timers: a binary heap by c->next
static conn **heap;
static int heap_n, heap_cap;
static void heap_set(int i, conn *c) {
  heap[i] = c;
  c->heap_at = i;
}
static void heap_up(int i) {
  conn *c = heap[i];
  for (; i > 0 && heap[(i - 1) / 2]->next > c->next; i = (i - 1) / 2) heap_set(i, heap[(i - 1) / 2]);
  heap_set(i, c);
}
static void heap_down(int i) {
  conn *c = heap[i];
  for (int k; (k = 2 * i + 1) < heap_n; i = k) {
    if (k + 1 < heap_n && heap[k + 1]->next < heap[k]->next) k++;
    if (heap[k]->next >= c->next) break;
    heap_set(i, heap[k]);
  }
  heap_set(i, c);
}
static void heap_add(conn *c) {
  if (heap_n == heap_cap) {
    heap_cap = heap_cap ? heap_cap * 2 : 1024;
    heap = realloc(heap, heap_cap * sizeof *heap);
  }
  heap_set(heap_n++, c);
  heap_up(heap_n - 1);
}
static void heap_del(conn *c) {
  int i = c->heap_at;
  if (i < 0) return;
  c->heap_at = -1;
  if (i != --heap_n) {
    heap_set(i, heap[heap_n]);
    heap_up(i);
    heap_down(heap[i]->heap_at);
  }
}

// ---- output
static void watch(conn *c, int out) {
  if (c->want_out == out) return;
  struct epoll_event e = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};
  epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
  c->want_out = out;
}
static void put(conn *c, const char *s, size_t n) {
  if (c->out_len + n > c->out_cap) {
    c->out_cap = (c->out_len + n) * 2;
    c->out = realloc(c->out, c->out_cap);
  }
  memcpy(c->out + c->out_len, s, n);
  c->out_len += n;
}
static int flush_out(conn *c) { // 1 all written, 0 would block, -1 the connection is done
  while (c->out_at < c->out_len) {
    ssize_t r = write(c->fd, c->out + c->out_at, c->out_len - c->out_at);
    if (r < 0) {
      if (errno != EAGAIN) return -1;
      watch(c, 1);
      return 0;
    }
    c->out_at += r;
  }
  c->out_at = c->out_len = 0;
  watch(c, 0);
  return c->closing ? -1 : 1;
}
static void answer(conn *c, const char *status, const char *body, int n) {
  char h[256];
  put(c, h,
      sprintf(h, "HTTP/1.1 %s\r\nserver: uvicorn\r\ncontent-length: %d\r\ncontent-type: application/json\r\n\r\n",
              status, n));
  put(c, body, n);
}
static void drop(conn *c) {
  heap_del(c);
  c->p->open--;
  if (c->streaming) {
    c->p->streaming--;
    c->p->aborted++;
  }
  if (c->newer)
    c->newer->older = c->older;
  else
    all = c->older;
  if (c->older) c->older->newer = c->newer;
  epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, 0);
  close(c->fd);
  free(c->in);
  free(c->out);
  free(c);
}

// ---- the stream, in vLLM's chunk shape
#define HEAD                                                                                                           \
  "data: "                                                                                                             \
  "{\"id\":\"chatcmpl-%s5d6e7f8091a2b3c4\",\"object\":\"chat.completion.chunk\",\"created\":1763700000,\"model\":"     \
  "\"devstral\",\"choices\":["
#define TAIL ",\"logprobs\":null,\"finish_reason\":null}]}\n\n"
enum { ROLE, ECHO_NONCE, DELTAS, TOOL_NAME, TOOL_OPEN, TOOL_DELTAS, TOOL_CLOSE, FINISH, USAGE, DONE };
static int emit(conn *c) { // writes one event; 2 it was a stamped delta, 1 another event, 0 the stream ended
  char b[1024], h[16];
  int n = 0, stamped = 0;
  if (c->stage == DELTAS && c->left == 0) c->stage = c->tools ? TOOL_NAME : FINISH;
  if (c->stage == TOOL_DELTAS && c->tools == 0) c->stage = TOOL_CLOSE;
  switch (c->stage) {
    case ROLE:
      n = sprintf(b, HEAD "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}" TAIL, c->nonce);
      c->stage = ECHO_NONCE;
      break;
    case ECHO_NONCE:
      n = sprintf(b, HEAD "{\"index\":0,\"delta\":{\"content\":\"ans:%s\"}" TAIL, c->nonce, c->nonce);
      c->stage = DELTAS;
      break;
    case DELTAS:
      n = sprintf(b, HEAD "{\"index\":0,\"delta\":{\"content\":\" t%016ld\"}" TAIL, c->nonce, (long)now_us());
      c->left--;
      stamped = 1;
      break;
    case TOOL_NAME:
      n = sprintf(b,
                  HEAD "{\"index\":0,\"delta\":{\"tool_calls\":[{\"id\":\"chatcmpl-tool-%s\",\"type\":\"function\","
                       "\"index\":0,\"function\":{\"name\":\"read_file\",\"arguments\":\"\"}}]}" TAIL,
                  c->nonce, c->nonce);
      c->stage = TOOL_OPEN;
      break;
    case TOOL_OPEN:
      n = sprintf(b,
                  HEAD "{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{"
                       "\\\"path\\\": \\\"src\"}}]}" TAIL,
                  c->nonce);
      c->stage = TOOL_DELTAS;
      break;
    case TOOL_DELTAS:
      n = sprintf(
          b,
          HEAD "{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\" t%016ld\"}}]}" TAIL,
          c->nonce, (long)now_us());
      c->tools--;
      stamped = 1;
      break;
    case TOOL_CLOSE:
      n = sprintf(
          b, HEAD "{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"\\\"}\"}}]}" TAIL,
          c->nonce);
      c->stage = FINISH;
      break;
    case FINISH:
      n = sprintf(b,
                  HEAD "{\"index\":0,\"delta\":{\"content\":\"\"},\"logprobs\":null,\"finish_reason\":\"%s\",\"stop_"
                       "reason\":null}]}\n\n",
                  c->nonce, c->tools_total ? "tool_calls" : "stop");
      c->stage = USAGE;
      break;
    case USAGE:
      n = sprintf(b, HEAD "],\"usage\":{\"prompt_tokens\":1200,\"total_tokens\":%d,\"completion_tokens\":%d}}\n\n",
                  c->nonce, 1200 + c->total, c->total);
      c->stage = DONE;
      break;
    default:
      put(c, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n", 24);
      c->streaming = 0;
      c->p->streaming--;
      heap_del(c);
      return 0;
  }
  put(c, h, sprintf(h, "%x\r\n", n));
  put(c, b, n);
  put(c, "\r\n", 2);
  return 1 + stamped;
}
static void tick(conn *c) { // up to and with the next stamped delta, or to the end
  int r;
  do r = emit(c);
  while (r == 1 || (r == 2 && !c->delay && c->out_len - c->out_at < 16384));
}

static const char *WHOLE =
    "{\"id\":\"chatcmpl-%s5d6e7f8091a2b3c4\",\"object\":\"chat.completion\",\"created\":1763700000,\"model\":"
    "\"devstral\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
    "\"content\":\"I will look at the file that defines the settings first, then at the call sites, before I change "
    "anything. ans:%s\",\"refusal\":null,\"annotations\":null,\"audio\":null,"
    "\"function_call\":null,\"tool_calls\":[{\"id\":\"chatcmpl-tool-%s90a1b2c3d4e5f607\",\"type\":\"function\","
    "\"function\":{\"name\":\"read_file\",\"arguments\":\"{\\\"path\\\": \\\"src/%s.py\\\", "
    "\\\"start_line\\\": 1, \\\"end_line\\\": "
    "240}\"}}],\"reasoning\":null},\"logprobs\":null,\"finish_reason\":\"tool_calls\",\"stop_reason\":null,\"token_"
    "ids\":null}],\"service_tier\":null,"
    "\"system_fingerprint\":null,\"usage\":{\"prompt_tokens\":1200,\"total_tokens\":1264,\"completion_tokens\":64,"
    "\"prompt_tokens_details\":null},\"prompt_logprobs\":null,\"prompt_token_ids\":null,\"kv_transfer_params\":null}";

// ---- requests
static void chat(conn *c, char *body, size_t n) {
  char *m = memmem(body, n, "req:", 4), end[32], out[2048];
  int deltas, delay, tools;
  if (!m || m + 40 > body + n || sscanf(m + 4, "%16[0-9a-f] n%d d%d k%d.", c->nonce, &deltas, &delay, &tools) != 4 ||
      (sprintf(end, "end:%s", c->nonce), !memmem(body, n, end, 20))) {
    const char *e =
        "{\"error\":{\"message\":\"the request was damaged on its way\",\"type\":\"BadRequestError\",\"code\":400}}";
    c->p->bad++;
    answer(c, "400 Bad Request", e, strlen(e));
    return;
  }
  if (!memmem(body, n, "\"stream\":true", 13) && !memmem(body, n, "\"stream\": true", 14)) {
    answer(c, "200 OK", out, sprintf(out, WHOLE, c->nonce, c->nonce, c->nonce, c->nonce));
    return;
  }
  const char *h = "HTTP/1.1 200 OK\r\ndate: Fri, 21 Nov 2025 10:00:00 GMT\r\nserver: uvicorn\r\ncontent-type: "
                  "text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
  put(c, h, strlen(h));
  c->total = deltas;
  c->tools = c->tools_total = tools;
  c->left = deltas - tools;
  c->delay = delay * 1000LL;
  c->stage = ROLE;
  c->streaming = 1;
  c->p->streaming++;
  emit(c);
  if (c->delay) {
    c->next = now_us() + c->delay;
    heap_add(c);
  }
}
static void get(conn *c, const char *path) {
  char b[256];
  const char *m;
  if (!strncmp(path, "/_stats", 7) || !strncmp(path, "/_kill", 6)) {
    int kill = path[2] == 'k';
    for (conn *k = all; kill && k; k = k->older)
      if (k->p == c->p && k->streaming) shutdown(k->fd, SHUT_RDWR);
    sprintf(b, "{\"open\":%ld,\"streaming\":%ld,\"requests\":%ld,\"aborted\":%ld,\"bad\":%ld}", c->p->open,
            c->p->streaming, c->p->requests, c->p->aborted, c->p->bad);
    m = b;
  } else if (!strncmp(path, "/v1/models", 10))
    m = "{\"object\":\"list\",\"data\":[{\"id\":\"devstral\",\"object\":\"model\",\"created\":1763700000,\"owned_by\":"
        "\"vllm\",\"root\":\"devstral\",\"parent\":null,\"max_model_len\":131072,\"permission\":[]}]}";
  else if (!strncmp(path, "/version", 8))
    m = "{\"version\":\"0.11.0\"}";
  else
    m = "{\"status\":\"ok\",\"model_path\":\"devstral\",\"served_model_name\":\"devstral\",\"model_id\":\"devstral\"}";
  answer(c, "200 OK", m, strlen(m));
}
static int take_request(conn *c) { // 1 a whole request was taken, 0 need more, -1 broken
  if (c->streaming || c->in_len < 4) return 0;
  c->in[c->in_len] = 0;
  char *e = memmem(c->in, c->in_len, "\r\n\r\n", 4);
  if (!e) return c->in_len > 65536 ? -1 : 0;
  char *body = e + 4, *end = c->in + c->in_len;
  size_t n = 0, total;
  int chunked = 0;
  for (char *l = c->in; l < e; l = strstr(l, "\r\n") + 2) {
    if (!strncasecmp(l, "content-length:", 15))
      n = strtoul(l + 15, 0, 10);
    else if (!strncasecmp(l, "transfer-encoding:", 18))
      chunked = 1;
    else if (!strncasecmp(l, "connection: close", 17))
      c->closing = 1;
  }
  if (!chunked) {
    total = body - c->in + n;
    if (c->in_len < total) {
      if (c->in_cap < total + 8192) {
        c->in_cap = total + 65536;
        c->in = realloc(c->in, c->in_cap);
      }
      return 0;
    }
  } else {
    char *q = body, *x;
    size_t k;
    do {
      if (!(x = memmem(q, end - q, "\r\n", 2))) return 0;
      k = strtoul(q, 0, 16);
      q = x + 2;
      if ((size_t)(end - q) < k + 2) return 0;
      q += k + 2;
    } while (k);
    total = q - c->in;
    char *w = q = body;
    while ((k = strtoul(q, 0, 16))) {
      q = strstr(q, "\r\n") + 2;
      memmove(w, q, k);
      w += k;
      q += k + 2;
    }
    n = w - body;
  }
  char *path = strchr(c->in, ' ');
  if (strncmp(c->in, "POST", 4))
    get(c, path ? path + 1 : "/");
  else {
    c->p->requests++;
    chat(c, body, n);
  }
  c->in_len -= total;
  memmove(c->in, c->in + total, c->in_len);
  return 1;
}
static int pump(conn *c) { // -1 the connection is done
  for (;;) {
    while (c->streaming && !c->delay && c->out_len - c->out_at < 16384) tick(c);
    int r = flush_out(c);
    if (r <= 0) return r;
    if (c->streaming) {
      if (c->delay) return 1;
      continue;
    }
    r = take_request(c);
    if (r <= 0) return r;
  }
}
static int readable(conn *c) {
  for (;;) {
    if (c->in_cap - c->in_len < 8192) {
      c->in_cap = c->in_cap * 2 + 8192;
      c->in = realloc(c->in, c->in_cap);
    }
    ssize_t r = read(c->fd, c->in + c->in_len, c->in_cap - c->in_len - 1);
    if (r <= 0) return r < 0 && errno == EAGAIN ? 0 : -1;
    c->in_len += r;
    int q = take_request(c);
    if (q < 0) return -1;
    if (q) return pump(c);
    if (r < 4096) return 0;
  }
}
static void accept_all(port *p) {
  for (int f; (f = accept4(p->fd, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
    int one = 1;
    setsockopt(f, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    conn *c = calloc(1, sizeof *c);
    c->fd = f;
    c->heap_at = -1;
    c->p = p;
    p->open++;
    c->in = malloc(c->in_cap = 16384);
    if ((c->older = all)) all->newer = c;
    all = c;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, f, &e);
  }
}
int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  struct rlimit rl;
  getrlimit(RLIMIT_NOFILE, &rl);
  rl.rlim_cur = rl.rlim_max;
  setrlimit(RLIMIT_NOFILE, &rl);
  ep = epoll_create1(0);
  for (int i = 1; i < argc && nports < 64; i++) {
    int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(atoi(argv[i])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(s, (void *)&a, sizeof a) || listen(s, 4096)) {
      perror("bind");
      return 1;
    }
    port *p = &ports[nports++];
    p->fd = s;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = p};
    epoll_ctl(ep, EPOLL_CTL_ADD, s, &e);
  }
  struct epoll_event ev[512];
  for (;;) {
    int64_t d = heap_n ? heap[0]->next - now_us() : 0;
    if (d < 0) d = 0;
    struct timespec ts = {d / 1000000, d % 1000000 * 1000};
    int n = epoll_pwait2(ep, ev, 512, heap_n ? &ts : 0, 0);
    for (int i = 0; i < n; i++) {
      if ((port *)ev[i].data.ptr >= ports && (port *)ev[i].data.ptr < ports + 64) {
        accept_all(ev[i].data.ptr);
        continue;
      }
      conn *c = ev[i].data.ptr;
      int dead = 0;
      if (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) dead = readable(c) < 0;
      if (!dead && (ev[i].events & EPOLLOUT)) dead = pump(c) < 0;
      if (dead) drop(c);
    }
    for (int64_t t = now_us(); heap_n && heap[0]->next <= t;) {
      conn *c = heap[0];
      tick(c);
      if (c->streaming && c->left + c->tools == 0)
        while (c->streaming) tick(c);
      if (c->streaming) {
        c->next += c->delay;
        if (c->next < t - 1000000) c->next = t;
        heap_down(0);
      }
      if (pump(c) < 0) drop(c);
    }
  }
}
