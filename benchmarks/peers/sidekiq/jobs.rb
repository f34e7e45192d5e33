# The four tasks of the benchmark, counted in the file that all contenders count in.
require "sidekiq"

Sidekiq.configure_server { |config| config.redis = { url: ENV["BENCH_URL"] } }
Sidekiq.configure_client { |config| config.redis = { url: ENV["BENCH_URL"] } }
Sidekiq.logger.level = Logger::ERROR

module Tally
  COUNTS = File.open(File.join(ENV["BENCH_FOLDER"], "counts"), "r+b")
  LOG = File.open(File.join(ENV["BENCH_FOLDER"], "log"), "a")
  LOG.sync = true
  LOCK = Mutex.new
  @count = 0

  def self.ran
    LOCK.synchronize do
      @count += 1
      COUNTS.pwrite([@count].pack("Q<"), (Process.pid % 4096) * 8)
    end
  end

  def self.note(line)
    LOG.write("#{line}\n")
  end

  def self.monotonic
    Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end
end

class Same
  include Sidekiq::Worker
  sidekiq_options queue: "bench", retry: false

  def perform(value)
    Tally.ran
    value
  end
end

class Size
  include Sidekiq::Worker
  sidekiq_options queue: "bench", retry: false

  def perform(text)
    Tally.ran
    text.size
  end
end

class Late
  include Sidekiq::Worker
  sidekiq_options queue: "bench", retry: false

  def perform(sent)
    Tally.note("waited #{Tally.monotonic - sent} 0")
    Tally.ran
  end
end

class Nap
  include Sidekiq::Worker
  sidekiq_options queue: "bench", retry: false

  def perform(seconds)
    Tally.note("began #{Process.pid} #{Tally.monotonic}")
    sleep seconds
    Tally.note("ended #{Process.pid} #{Tally.monotonic}")
    Tally.ran
  end
end
