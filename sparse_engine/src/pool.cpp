#include "pool.hpp"

#include <stdexcept>

namespace sparse {

Pool::Pool(int threads) {
  if (threads < 1 || threads > 256)
    throw std::invalid_argument("threads must be 1 to 256, not " + std::to_string(threads));
  for (int t = 1; t < threads; ++t) workers_.emplace_back([this, t] { serve(t); });
}

Pool::~Pool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
  }
  begin_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Pool::one_share(int thread) {
  const long count = threads();
  const int first = static_cast<int>(items_ * static_cast<long>(thread) / count);
  const int last = static_cast<int>(items_ * static_cast<long>(thread + 1) / count);
  try {
    if (first < last) (*work_)(first, last, thread);
  } catch (...) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!failure_) failure_ = std::current_exception();
  }
}

void Pool::run(int items, const std::function<void(int, int, int)>& work) {
  if (workers_.empty() || items < 2) {
    if (items > 0) work(0, items, 0);
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    work_ = &work;
    items_ = items;
    running_ = static_cast<int>(workers_.size());
    ++generation_;
  }
  begin_.notify_all();
  one_share(0);
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
    {
      std::unique_lock<std::mutex> lock(mutex_);
      begin_.wait(lock, [&] { return ending_ || generation_ != seen; });
      if (ending_) return;
      seen = generation_;
    }
    one_share(thread);
    std::lock_guard<std::mutex> lock(mutex_);
    if (--running_ == 0) done_.notify_one();
  }
}

}  // namespace sparse
