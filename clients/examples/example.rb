#!/usr/bin/env ruby
# Adds two documents, asks a question, shows what it was answered from, deletes them. README.md says
# how to run it. The server is MSA_SERVER, or 127.0.0.1:7070.
require 'grpc'
require 'msa/v1/router_services_pb'

memory = Msa::V1::MemoryService::Stub.new(ENV.fetch('MSA_SERVER', '127.0.0.1:7070'), :this_channel_is_insecure,
                                          channel_args: { 'grpc.max_receive_message_length' => 64 << 20 })
texts = { 'tower' => 'The Mira tower is 412 m high.', 'bridge' => 'The Orlan bridge opened in 1931.' }
requests = texts.map do |id, text|
  Msa::V1::AddDocumentsRequest.new(document: Msa::V1::Document.new(id: id.b, text: text.b))
end
memory.add_documents(requests).each do |reply|
  puts reply.status ? "#{reply.id} refused: #{reply.status.message}" : "#{reply.id}: revision #{reply.result.revision}"
end

memory.generate(Msa::V1::GenerateRequest.new(question: 'How high is the Mira tower?'.b)).each do |event|
  print event.text.text if event.event == :text && !event.text.retrieval
  puts "\n#{event.done.finish_reason}, from: #{event.done.documents.map(&:document_id).join(' ')}" if event.event == :done
end

deleted = memory.delete_documents(Msa::V1::DeleteDocumentsRequest.new(ids: texts.keys.map(&:b)))
puts "deleted #{deleted.results.size}"
