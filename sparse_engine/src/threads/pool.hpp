// A fixed team of threads that share out numbered items in contiguous ranges.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "threads/use.hpp"

namespace sparse {

class Pool {
 public:
  // Items are dealt out in `shares` (0: one a thread). What is summed a share comes out the same on any number
  // of threads, if the shares are as many.
  // Throws std::invalid_argument, or std::runtime_error where the system gives no more threads.
  explicit Pool(int threads, int shares = 0);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }
  int shares() const { return shares_; }

  // `work(begin, end, share)` for every share, on ranges that depend on `items` and the number of shares alone:
  // sums kept per share come out the same every time. The first exception is thrown again here.
  // One caller at a time.
  void run(int items, const std::function<void(int, int, int)>& work);

  Use use;

 private:
  void end();
  void serve(int thread);
  void shares_of(int thread);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable begin_, done_;
  const std::function<void(int, int, int)>* work_ = nullptr;
  int shares_;
  int items_ = 0;
  // Written under the mutex, for those who sleep; read without it by those who wait awake.
  std::atomic<int> running_{0};
  std::atomic<long> generation_{0};
  bool ending_ = false;
  std::exception_ptr failure_;
};

}  // namespace sparse
