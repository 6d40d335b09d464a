// How the team waits, works and ends: see pool.hpp.
#include "threads/pool.hpp"

#include <chrono>
#include <stdexcept>
#include <system_error>

namespace sparse {

namespace {

// A step is some hundred short operations: to sleep and be woken between them costs more than most of them.
constexpr std::chrono::microseconds kAwake{50};

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Until `met` is true, or for a short time.
template <typename F>
void wait_awake(F&& met) {
  const auto end = std::chrono::steady_clock::now() + kAwake;
  while (std::chrono::steady_clock::now() < end)
    for (int i = 0; i < 16; ++i) {
      if (met()) return;
      pause();
    }
}

}  // namespace

Pool::Pool(int threads, int shares) : shares_(shares == 0 ? threads : shares) {
  if (threads < 1 || threads > 256)
    throw std::invalid_argument("threads must be 1 to 256, not " + std::to_string(threads));
  if (shares_ < threads || shares_ > 256)
    throw std::invalid_argument("shares must be as many as threads (" + std::to_string(threads) + ") to 256, not " +
                                std::to_string(shares));
  workers_.reserve(static_cast<size_t>(threads));
  try {
    for (int t = 1; t < threads; ++t) workers_.emplace_back([this, t] { serve(t); });
  } catch (const std::system_error& error) {
    const size_t started = workers_.size() + 1;
    end();
    throw std::runtime_error("of " + std::to_string(threads) + " threads the system gives " +
                             std::to_string(started) + " only: " + error.what());
  }
}

Pool::~Pool() { end(); }

void Pool::end() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
  }
  begin_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Pool::shares_of(int thread) {
  try {
    for (long share = thread; share < shares_; share += threads()) {
      const int first = static_cast<int>(items_ * share / shares_);
      const int last = static_cast<int>(items_ * (share + 1) / shares_);
      if (first < last) (*work_)(first, last, static_cast<int>(share));
    }
  } catch (...) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!failure_) failure_ = std::current_exception();
  }
}

void Pool::run(int items, const std::function<void(int, int, int)>& work) {
  if (items < 2) {
    if (items == 1) work(0, 1, 0);
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    work_ = &work;
    items_ = items;
    running_ = static_cast<int>(workers_.size());
    ++generation_;
  }
  if (!workers_.empty()) begin_.notify_all();
  shares_of(0);
  wait_awake([this] { return running_ == 0; });
  std::unique_lock<std::mutex> lock(mutex_);
  done_.wait(lock, [this] { return running_ == 0; });
  if (failure_) {
    auto failure = failure_;
    failure_ = nullptr;
    std::rethrow_exception(failure);
  }
}

void Pool::serve(int thread) {
  long seen = 0;
  for (;;) {
    wait_awake([&] { return generation_ != seen; });
    {
      std::unique_lock<std::mutex> lock(mutex_);
      begin_.wait(lock, [&] { return ending_ || generation_ != seen; });
      if (ending_) return;
      seen = generation_;
    }
    shares_of(thread);
    std::lock_guard<std::mutex> lock(mutex_);
    if (--running_ == 0) done_.notify_one();
  }
}

}  // namespace sparse
