# The producer: reads commands, one JSON object a line, and answers each with one.
require "json"
require_relative "jobs"

CLASSES = { "same" => Same, "size" => Size, "late" => Late, "nap" => Nap }.freeze
$stdout.sync = true

def answer(command)
  job = CLASSES.fetch(command["task"])
  case command["do"]
  when "send_many"
    Sidekiq::Client.push_bulk("class" => job, "args" => command["arguments"].map { |value| [value] }).last
  when "send_each"
    command["arguments"].map { |value| job.perform_async(value) }.last
  else
    raise "Sidekiq keeps no results"
  end
end

$stdin.each_line do |line|
  told = begin
    { value: answer(JSON.parse(line)) }
  rescue StandardError => e
    { error: "#{e.class}: #{e.message}" }
  end
  puts JSON.generate(told)
end
